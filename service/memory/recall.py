"""Recall: what an agent should know for a query, as one text within a budget of tokens."""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from service.embedding.embedder import Embedder
from service.memory.model import Embedding, Memory
from service.memory.search import Found, search
from service.memory.store import MemoryStore, Selection
from service.memory.words import query_words_of, words_of

# How many memories are looked at for one context.
CONSIDERED = 50

# Two memories say the same where their embeddings are this near and their telling words are the
# same: embeddings alone hold "leaves at 9:15" and "leaves at 9:45" for the same.
SAME_COSINE = 0.95
NEGATIONS = frozenset(("no", "nor", "not", "t", "without"))  # "t" is what is left of "don't"

SNIPPET_CHARACTERS = 200


class Citation(msgspec.Struct, frozen=True):
    """A memory that the context has, in the order of the context."""

    id: str
    similarity: float
    snippet: str


class Recalled(msgspec.Struct, frozen=True):
    """A text to put before a language model; empty where nothing relevant is remembered.

    `tokens` is its length for the model's own tokenizer.
    """

    context: str
    citations: list[Citation]
    tokens: int


async def recall(
    store: MemoryStore,
    embedder: Embedder,
    selection: Selection,
    *,
    query: str,
    embedding: Embedding,
    max_tokens: int,
    cutoff: float,
) -> Recalled:
    """The memories that are relevant to a query, best first, as one text of at most `max_tokens`.

    Relevant is what is at least as near as the cut-off: empty where nothing is. What says the same
    as a better memory is left out. A memory that does not fit is skipped, except that the best one
    is cut where it is too long by itself.
    """
    found = await search(
        store,
        selection,
        query=query,
        embedding=embedding,
        limit=CONSIDERED,
        min_similarity=cutoff,
    )
    if not found:
        return Recalled("", [], 0)
    embeddings = await store.embeddings(selection.tenant, [hit.memory.id for hit in found])
    different = _without_repetitions(found, embeddings)
    lengths = await embedder.tokenizer.count([_entry(hit.memory) for hit in different])
    chosen: list[Found] = []
    tokens = 0
    for hit, length in zip(different, lengths, strict=True):
        if tokens + length <= max_tokens:
            chosen.append(hit)
            tokens += length
    if not chosen:
        return await _only_the_beginning(embedder, different[0], max_tokens)
    context = "\n".join(_entry(hit.memory) for hit in chosen)
    (tokens,) = await embedder.tokenizer.count([context])
    return Recalled(context, [_cite(hit) for hit in chosen], tokens)


def _entry(memory: Memory) -> str:
    text = f"{memory.title}: {memory.content}" if memory.title else memory.content
    return f"- ({memory.valid_from:%Y-%m-%d}) {text}"


def _cite(hit: Found) -> Citation:
    content = hit.memory.content
    cut = len(content) > SNIPPET_CHARACTERS
    snippet = content[: SNIPPET_CHARACTERS - 1] + "…" if cut else content
    return Citation(hit.memory.id, hit.similarity, snippet)


async def _only_the_beginning(embedder: Embedder, hit: Found, max_tokens: int) -> Recalled:
    entry = _entry(hit.memory)
    shortest, longest = 0, len(entry)  # in characters; the shortest is known to fit
    while longest - shortest > 1:
        middle = (shortest + longest) // 2
        (tokens,) = await embedder.tokenizer.count([entry[:middle] + "…"])
        shortest, longest = (middle, longest) if tokens <= max_tokens else (shortest, middle)
    if not shortest:
        return Recalled("", [], 0)
    context = entry[:shortest] + "…"
    (tokens,) = await embedder.tokenizer.count([context])
    return Recalled(context, [_cite(hit)], tokens)


def _without_repetitions(
    found: Sequence[Found], embeddings: npt.NDArray[np.float32]
) -> list[Found]:
    words = [_telling_words(hit.memory) for hit in found]
    kept: list[int] = []
    for index in range(len(found)):
        near = (other for other in kept if embeddings[index] @ embeddings[other] >= SAME_COSINE)
        if not any(words[index] == words[other] for other in near):
            kept.append(index)
    return [found[index] for index in kept]


def _telling_words(memory: Memory) -> frozenset[str]:
    text = f"{memory.title or ''}\n{memory.content}"
    return frozenset(query_words_of(text)) | (NEGATIONS & set(words_of(text)))
