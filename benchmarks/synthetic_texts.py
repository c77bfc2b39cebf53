"""Texts of a known number of tokens, as the model's own tokenizer counts them."""

import random
from collections.abc import Iterator

import tokenizers

MEDIAN_TOKENS, SPREAD = 60, 1.0
SHORTEST, LONGEST = 16, 512

_CANDIDATES = 8_000
_MARKS_OF_A_SPACE = "▁Ġ"  # in SentencePiece's vocabularies, and in byte-level ones


class SyntheticTexts:
    """Makes up texts of exactly so many tokens, of random words, so that no two are alike.

    A length is what the model reads: the special tokens and the prompt count. The texts are made
    without the prompt, for whoever puts it before them.

    Raises:
        ValueError: the tokenizer has too few words that are one token wherever they stand.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, prompt: str) -> None:
        self._random = random.Random(0)
        self._words, self._overhead = _one_token_words(tokenizer, prompt)
        for tokens in (self._overhead + 1, SHORTEST, MEDIAN_TOKENS, LONGEST):
            counted = len(tokenizer.encode(prompt + self.text(tokens)).ids)
            if counted != tokens:
                raise ValueError(f"a text made to have {tokens} tokens has {counted}")

    def start_again(self, seed: str) -> None:
        """Draw the texts and lengths of this seed from here on."""
        self._random.seed(seed)

    def text(self, tokens: int) -> str:
        """A text that the model reads as so many tokens."""
        return " ".join(self._random.choices(self._words, k=tokens - self._overhead))

    def mixed_lengths(self) -> Iterator[int]:
        """Numbers of tokens without end: log-normal, 60 in the median, from 16 to 512."""
        while True:
            drawn = self._random.lognormvariate(0, SPREAD) * MEDIAN_TOKENS
            yield max(SHORTEST, min(LONGEST, round(drawn)))


def _one_token_words(tokenizer: tokenizers.Tokenizer, prompt: str) -> tuple[list[str], int]:
    """Words that add one token each after the prompt and after each other; the tokens around."""
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda piece: piece[1])
    named = dict.fromkeys(piece.strip(_MARKS_OF_A_SPACE) for piece, _ in pieces)
    likely = [word for word in named if word.isascii() and word.isalpha() and word.islower()]
    candidates = [word for word in likely if 3 <= len(word) <= 10][:_CANDIDATES]
    counts = []
    for repeats in (1, 2, 3):
        texts = [prompt + " ".join([word] * repeats) for word in candidates]
        counts.append([len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts)])
    fewest = min(counts[0], default=0)
    words = [
        word
        for word, *grows in zip(candidates, *counts, strict=True)
        if grows == [fewest, fewest + 1, fewest + 2]
    ]
    if len(words) < 1_000:
        raise ValueError(f"only {len(words)} words of this tokenizer are always one token")
    return words, fewest - 1
