"""Memories to measure stores with: the same ones on each run, like real ones where it matters.

Embeddings lie in clusters of clusters, in fewer directions than they have numbers, as those of
texts do; how often a word occurs follows Zipf's law. Every user has one memory in a hundred.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from service.memory.model import Draft, Memory

DIMENSIONS = 768
USERS = 100
WORDS_PER_MEMORY = 40
VOCABULARY = 20_000
STARTED = datetime(2026, 1, 1, tzinfo=UTC)

_AT_ONCE = 50_000  # float64 takes eight times the memory meanwhile
_TOPICS, _SUBTOPICS, _RANK = 60, 40, 200

Embeddings = npt.NDArray[np.float32]


class SyntheticMemories:
    """Draws memories and queries from one distribution."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        spectrum = np.linspace(1.5, 0.2, _RANK)
        self._directions = self._random.standard_normal((_RANK, DIMENSIONS)) / np.sqrt(DIMENSIONS)
        topics = self._random.standard_normal((_TOPICS, 1, _RANK))
        subtopics = topics + 0.7 * self._random.standard_normal((_TOPICS, _SUBTOPICS, _RANK))
        self._centres = (subtopics * spectrum).reshape(-1, _RANK)
        self._spectrum = spectrum

    def embeddings(self, count: int) -> Embeddings:
        """Unit vectors: (count, DIMENSIONS)."""
        made = np.empty((count, DIMENSIONS), np.float32)
        for first in range(0, count, _AT_ONCE):
            block = made[first : first + _AT_ONCE]
            block[:] = self._block(len(block))
        return made

    def _block(self, count: int) -> Embeddings:
        centres = self._centres[self._random.integers(len(self._centres), size=count)]
        coordinates = centres + 0.6 * self._spectrum * self._random.standard_normal((count, _RANK))
        vectors = coordinates @ self._directions
        vectors += 0.02 * self._random.standard_normal((count, DIMENSIONS))
        unit: Embeddings = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(
            np.float32
        )
        return unit

    def texts(self, count: int, words: int) -> list[str]:
        """Texts of so many words; the commonest word is word0."""
        drawn = self._random.zipf(1.2, (count, words)) % VOCABULARY
        return [" ".join(f"word{number}" for number in row) for row in drawn]

    def drafts(self, first: int, embeddings: Embeddings) -> list[Draft]:
        """Memories with these embeddings, numbered from `first`."""
        texts = self.texts(len(embeddings), WORDS_PER_MEMORY)
        return [
            Draft(memory=_memory(first + index, text), embedding=embedding)
            for index, (text, embedding) in enumerate(zip(texts, embeddings, strict=True))
        ]

    def batches(self, embeddings: Embeddings, size: int) -> Iterator[list[Draft]]:
        """Memories with these embeddings, so many at once."""
        for first in range(0, len(embeddings), size):
            yield self.drafts(first, embeddings[first : first + size])


def user_of(number: int) -> str:
    """Whose the memory of this number is."""
    return f"user{number % USERS}"


def id_of(number: int) -> str:
    """The id of the memory of this number."""
    return f"m{number:08}"


def _memory(number: int, text: str) -> Memory:
    created = STARTED + timedelta(seconds=number)
    return Memory(
        id=id_of(number),
        content=f"{text} number{number}",  # no two are the same
        memory_type=("note", "fact", "preference")[number % 3],
        tags=(f"tag{number % 50}", f"topic{number % 7}"),
        user_id=user_of(number),
        created_at=created,
        updated_at=created,
        valid_from=created,
    )
