"""The shapes that batches are padded to on a GPU.

What a GPU computes in a small batch takes less time than to launch it, operator by operator. A CUDA
graph launches all of them at once, but has a fixed shape: so small batches are padded to one of a
few shapes that are captured, and large ones run as they are.
"""

from bisect import bisect_left
from dataclasses import dataclass

# A captured graph keeps some megabytes, so there are few: each at most twice of the one before in
# either direction, and none of so many tokens that computing them outweighs launching them.
TEXTS = (1, 2, 4, 8, 16, 32)
LENGTHS = (16, 32, 64, 128, 256, 512, 1_024, 2_048)
MOST_CAPTURED_TOKENS = 2_048

# Kernels read rows of masks and keys by this many tokens.
STEP = 8


@dataclass(frozen=True, slots=True)
class Bucket:
    """The shape of one padded batch; those with the same `graph_id` have the same captured graph.

    None is captured without one.
    """

    texts: int
    tokens: int  # of each text
    graph_id: int | None


def captured_buckets(*, longest: int, above: int = 0) -> list[Bucket]:
    """All captured shapes with lengths above `above` and up to `longest`, the largest first.

    The largest take the memory that the others find there.
    """
    shapes = [
        Bucket(texts, tokens, 1 + LENGTHS.index(tokens) * len(TEXTS) + TEXTS.index(texts))
        for tokens in LENGTHS
        for texts in TEXTS
        if above < tokens <= longest and texts * tokens <= MOST_CAPTURED_TOKENS
    ]
    return sorted(shapes, key=lambda shape: shape.texts * shape.tokens, reverse=True)


def bucket_for(texts: int, tokens: int, *, longest: int, above: int = 0) -> Bucket:
    """What to pad this many texts to, the longest of which has so many tokens.

    `longest` is what the graph takes, and `above` what shorter texts have another graph for.
    """
    at_texts, at_tokens = bisect_left(TEXTS, texts), bisect_left(LENGTHS, tokens)
    if at_texts < len(TEXTS) and at_tokens < len(LENGTHS):
        padded = Bucket(TEXTS[at_texts], LENGTHS[at_tokens], 1 + at_tokens * len(TEXTS) + at_texts)
        fits = above < padded.tokens <= longest
        if fits and padded.texts * padded.tokens <= MOST_CAPTURED_TOKENS:
            return padded
    return Bucket(texts, min(-(-tokens // STEP) * STEP, max(longest, tokens)), None)
