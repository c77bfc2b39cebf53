from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from service.memory.filters import EVERYTHING, Filter, parse_filter
from service.memory.model import Embedding, Memory, Record, Relation
from service.memory.search import Mode, find_related, search
from service.memory.sqlite_store import open_sqlite_store
from service.memory.store import MemoryStore, Selection
from tests.memory.memories import MODEL, NOW, at, embedding

pytestmark = pytest.mark.anyio

TENANT = "tenant"
MODES: tuple[Mode, ...] = ("hybrid", "vector", "text")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[MemoryStore]:
    async with open_sqlite_store(tmp_path / "memory.db", MODEL) as store:
        yield store


def selecting(filter_: Filter = EVERYTHING) -> Selection:
    return Selection(tenant=TENANT, now=at(60), as_of=at(60), filter=filter_)


async def keep(store: MemoryStore, *memories: tuple[str, Embedding, str]) -> None:
    """Load memories of these ids, embeddings and contents, each a minute after the one before."""
    records = [
        Record(
            Memory(
                id=id,
                content=content,
                created_at=made,
                updated_at=made,
                valid_from=made,
                tags=(id,),
            ),
            vector,
        )
        for minute, (id, vector, content) in enumerate(memories)
        for made in [at(minute)]
    ]
    await store.load(TENANT, records)


async def related(
    store: MemoryStore, ids: Sequence[str], relations: str, *, hops: int = 3, limit: int = 100
) -> list[tuple[str, str]]:
    """What is related, and the way there, where `a-b 0.5` relates a to b with that weight."""
    links = [(*link.split(), "1")[:2] for link in relations.split(", ")]
    ends = [ends.split("-") for ends, _ in links]
    names = sorted({name for pair in ends for name in pair})
    await keep(store, *((name, embedding(), name) for name in names))
    made = [
        Relation(
            source=source,
            target=target,
            relation_type="R",
            weight=float(weight),
            created_at=NOW,
        )
        for (source, target), (_, weight) in zip(ends, links, strict=True)
    ]
    assert not await store.relate(TENANT, made)
    found = await find_related(store, selecting(), ids, hops=hops, limit=limit)
    return [
        (each.memory.id, ", ".join(f"{step.source}-{step.target}" for step in each.path))
        for each in found
    ]


async def test_the_shortest_way_counts(store: MemoryStore) -> None:
    assert await related(store, ["a"], "a-b, b-c, c-d, a-d") == [
        ("b", "a-b"),
        ("d", "a-d"),
        ("c", "a-b, b-c"),
    ]


async def test_of_equally_short_ways_the_one_from_the_earlier_memory_counts(
    store: MemoryStore,
) -> None:
    assert await related(store, ["b", "a"], "a-x, b-x 0.1") == [("x", "b-x")]


async def test_of_equally_short_ways_the_stronger_counts(store: MemoryStore) -> None:
    assert await related(store, ["a"], "a-b 0.4, a-c 0.9, a-d 0.4") == [
        ("c", "a-c"),
        ("b", "a-b"),
        ("d", "a-d"),
    ]


async def test_what_is_asked_for_is_not_related_to_itself(store: MemoryStore) -> None:
    assert await related(store, ["a", "b"], "a-b, b-a") == []


async def test_hops_and_limit_are_kept(store: MemoryStore) -> None:
    links = "a-b, b-c, c-d, d-e"
    assert [id for id, _ in await related(store, ["a"], links, hops=2)] == ["b", "c"]
    assert [id for id, _ in await related(store, ["a"], links, limit=1)] == ["b"]
    assert await related(store, ["a"], links, hops=0) == []


async def test_a_memory_that_is_not_selected_is_not_on_the_way(store: MemoryStore) -> None:
    await related(store, ["a"], "a-b, b-c, a-d")
    without_b = selecting(parse_filter({"not": {"id": "b"}}))
    found = await find_related(store, without_b, ["a"], hops=3)
    assert [each.memory.id for each in found] == ["d"]


async def found(
    store: MemoryStore, query: str, mode: Mode = "hybrid", limit: int = 10
) -> list[str]:
    hits = await search(
        store, selecting(), query=query, embedding=embedding(1), mode=mode, limit=limit
    )
    return [hit.memory.id for hit in hits]


async def test_what_both_arms_find_comes_before_what_one_finds(store: MemoryStore) -> None:
    await keep(
        store,
        ("near", embedding(1), "nothing of it"),
        ("both", embedding(1, 0.1), "green tea"),
        ("words", embedding(0, 1), "green tea in a large cup"),
    )
    assert (await found(store, "green tea"))[0] == "both"
    assert await found(store, "green tea", "vector") == ["near", "both", "words"]
    assert await found(store, "green tea", "text") == ["both", "words"]


async def test_one_word_of_many_says_less_than_the_meaning_and_all_of_them_more(
    store: MemoryStore,
) -> None:
    near = [(f"near{number}", embedding(1, number / 50), "nothing of it") for number in range(12)]
    await keep(store, *near, ("word", embedding(0, 1), "a kettle"))
    question = "Which kettle, cup, spoon or teapot would Ada recommend?"
    assert (await found(store, question))[:5] == [id for id, _, _ in near[:5]]
    assert (await found(store, "kettle"))[0] == "word"


async def test_a_search_has_rank_and_similarity_of_both_arms(store: MemoryStore) -> None:
    await keep(store, ("a", embedding(1), "green tea"), ("b", embedding(3, 4), "black tea"))
    hits = await search(store, selecting(), query="black", embedding=embedding(1), mode="hybrid")
    ranks = {
        hit.memory.id: (hit.rank_by_meaning, hit.rank_by_words, hit.similarity, hit.words)
        for hit in hits
    }
    assert ranks == {"a": (1, None, 1.0, ()), "b": (2, 1, 0.6, ("black",))}


async def test_a_search_in_an_empty_store_finds_nothing(store: MemoryStore) -> None:
    for mode in MODES:
        assert await found(store, "green tea", mode) == []
