from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from service.embedding.embedder import Embedder
from service.memory.model import Embedding, Memory, Record
from service.memory.recall import CONSIDERED, Recalled, recall
from service.memory.sqlite_store import open_sqlite_store
from service.memory.store import EmbeddingModel, MemoryStore, Selection
from tests.memory.memories import NOW, at

pytestmark = pytest.mark.anyio

TENANT = "tenant"
DIMENSIONS = 3
MODEL = EmbeddingModel("model", "a" * 64, DIMENSIONS)
QUERY = np.eye(1, DIMENSIONS, dtype=np.float32)[0]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[MemoryStore]:
    async with open_sqlite_store(tmp_path / "memory.db", MODEL) as store:
        yield store


def at_similarity(similarity: float, turn: float = 0.0) -> Embedding:
    """An embedding that is so near to the query's, in one of the directions away from it."""
    away = np.sqrt(1 - similarity**2)
    made = [similarity, away * np.cos(turn), away * np.sin(turn)]
    return np.array(made, np.float32)


async def keep(store: MemoryStore, **memories: tuple[str, Embedding]) -> None:
    records = [
        Record(
            Memory(id=id, content=content, created_at=NOW, updated_at=NOW, valid_from=NOW), vector
        )
        for id, (content, vector) in memories.items()
    ]
    await store.load(TENANT, records)


async def recalled(
    store: MemoryStore, embedder: Embedder, *, max_tokens: int = 1_000, cutoff: float = 0.5
) -> Recalled:
    return await recall(
        store,
        embedder,
        Selection(tenant=TENANT, now=at(1), as_of=at(1)),
        query="?",
        embedding=QUERY,
        max_tokens=max_tokens,
        cutoff=cutoff,
    )


def ids(answer: Recalled) -> list[str]:
    return [citation.id for citation in answer.citations]


async def test_what_is_as_near_as_the_cut_off_is_relevant(
    store: MemoryStore, embedder: Embedder
) -> None:
    await keep(store, near=("a", at_similarity(0.8)), far=("b", at_similarity(0.6)))
    assert ids(await recalled(store, embedder, cutoff=0.6)) == ["near", "far"]
    assert ids(await recalled(store, embedder, cutoff=0.600_01)) == ["near"]
    assert await recalled(store, embedder, cutoff=0.81) == Recalled("", [], 0)


async def test_the_best_memory_stands_first(store: MemoryStore, embedder: Embedder) -> None:
    await keep(store, a=("far", at_similarity(0.6)), b=("near", at_similarity(0.9)))
    answer = await recalled(store, embedder)
    assert answer.context == "- (2026-05-01) near\n- (2026-05-01) far"


async def test_the_same_words_nearby_say_the_same(store: MemoryStore, embedder: Embedder) -> None:
    await keep(
        store,
        best=("Ada drinks the tea.", at_similarity(0.9)),
        same=("The tea, Ada drinks!", at_similarity(0.89)),
        other=("Ada drinks the coffee.", at_similarity(0.88)),
        distant=("Ada drinks tea", at_similarity(0.87, turn=3)),
    )
    assert ids(await recalled(store, embedder)) == ["best", "other", "distant"]


@pytest.mark.parametrize(
    ("one", "other"), [("at 9:15", "at 9:45"), ("she does", "she does not"), ("do it", "don't")]
)
async def test_a_number_or_a_negation_makes_another_fact(
    store: MemoryStore, embedder: Embedder, one: str, other: str
) -> None:
    await keep(store, a=(one, at_similarity(0.9)), b=(other, at_similarity(0.899)))
    assert ids(await recalled(store, embedder)) == ["a", "b"]


async def test_no_more_memories_are_looked_at_than_is_said(
    store: MemoryStore, embedder: Embedder
) -> None:
    many = {
        f"m{number}": (f"note {number}", at_similarity(0.9)) for number in range(CONSIDERED + 5)
    }
    await keep(store, **many)
    answer = await recalled(store, embedder, max_tokens=100_000)
    assert len(answer.citations) == CONSIDERED


@pytest.mark.parametrize("max_tokens", range(1, 60, 7))
async def test_tokens_are_those_of_the_whole_context(
    store: MemoryStore, embedder: Embedder, max_tokens: int
) -> None:
    contents = ("Ada drinks tea.", "Bob drinks lemonade, cold.", "☕ çay 茶", "x" * 90)
    await keep(
        store,
        **{
            f"m{number}": (content, at_similarity(0.9, turn=number))
            for number, content in enumerate(contents)
        },
    )
    answer = await recalled(store, embedder, max_tokens=max_tokens)
    (counted,) = await embedder.tokenizer.count([answer.context]) if answer.context else (0,)
    assert answer.tokens == counted <= max_tokens
