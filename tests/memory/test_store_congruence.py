"""The same calls on every store give the same answers, and those are what filters.matches says."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from service.errors import Conflict
from service.memory.filters import matches, parse_filter
from service.memory.model import Count, Draft, Memory, NewRelation, Record, to_microseconds
from service.memory.store import (
    SIMILARITY_DECIMALS,
    Match,
    MemoryStore,
    Order,
    Position,
    Selection,
)
from service.memory.words import Candidate, WordMatch, indexed_words, query_words_of, rank_by_words
from tests.memory.conftest import opener
from tests.memory.memories import (
    DIRECTIONS,
    QUERIES,
    TIMES,
    at,
    filter_documents,
    memories,
    relation,
    selected,
    unique_tenant,
)
from tests.stores import GetServer, store_names

IDS = [f"id-{number}" for number in range(12)]
TYPES = ["CAUSES", "RELATED_TO", "their own"]
EARLIEST = at(-1)
TICK = timedelta(microseconds=1)

Call = Callable[[MemoryStore], Awaitable[Any]]


class Change(msgspec.Struct, frozen=True):
    """A call that writes, as a word and its arguments."""

    method: str
    arguments: tuple[Any, ...]


class Check(msgspec.Struct, frozen=True):
    """A selection and what is asked about it."""

    document: dict[str, Any]
    now: datetime
    as_of: datetime | None
    order: Order
    limit: int
    direction: int
    query: str
    ids: list[str]


@st.composite
def drafts(draw: st.DrawFn, id: str, others: list[str]) -> Draft:
    """A draft that often refers to one of the others, there or not."""
    memory = draw(memories(st.just(id)))
    superseded = draw(st.none() | st.sampled_from(others))
    relations = draw(
        st.lists(
            st.builds(
                NewRelation,
                target=st.sampled_from(others),
                relation_type=st.sampled_from(TYPES),
                weight=st.sampled_from([0.5, 1.0]),
            ),
            max_size=2 if draw(st.integers(0, 3)) == 0 else 0,
        )
    )
    own_id = draw(st.booleans())
    return Draft(
        memory=msgspec.structs.replace(memory, supersedes=superseded),
        embedding=draw(st.sampled_from(DIRECTIONS)),
        relations=tuple(relations),
        own_id=own_id,
        replace=own_id and draw(st.booleans()),
    )


@st.composite
def changes(draw: st.DrawFn) -> list[Change]:
    """Memories of most ids, and then a few changes of every kind."""
    earlier = ["none", "none", *IDS]
    first = [draw(drafts(id, earlier[number : number + 2])) for number, id in enumerate(IDS)]
    made = [Change("remember", (first, draw(st.sampled_from(TIMES))))]
    for _ in range(draw(st.integers(0, 8))):
        made.append(draw(change()))
    return made


@st.composite
def change(draw: st.DrawFn) -> Change:
    now = draw(st.sampled_from(TIMES))
    id = st.sampled_from(IDS)
    match draw(st.sampled_from(["remember", "update", "delete", "relate", "unrelate"])):
        case "remember":
            given_ids = draw(st.lists(id, min_size=1, max_size=3, unique=True))
            return Change("remember", ([own(draw(drafts(each, IDS))) for each in given_ids], now))
        case "update":
            memory = draw(memories(id))
            embedding = draw(st.none() | st.sampled_from(DIRECTIONS))
            return Change("update", (memory, embedding, draw(st.integers(1, 2))))
        case "delete":
            some = st.lists(id, max_size=2).map(lambda ids: {"id": {"in": ids}})
            return Change("delete", (draw(some | filter_documents()), now, draw(st.booleans())))
        case "relate":
            links = st.builds(relation, id, id, st.sampled_from(TYPES))
            return Change("relate", (draw(st.lists(links, min_size=1, max_size=3)),))
        case _:
            return Change("unrelate", (draw(id), draw(id), draw(st.none() | st.just("CAUSES"))))


def own(given: Draft) -> Draft:
    return msgspec.structs.replace(given, own_id=True)


def checks() -> st.SearchStrategy[Check]:
    times = st.sampled_from([*TIMES, TIMES[1] - TICK, at(10)])
    return st.builds(
        Check,
        document=filter_documents() | filter_documents().map(lambda document: {"not": document}),
        now=times,
        as_of=st.none() | st.none() | times,
        order=st.builds(
            Order, st.sampled_from(["created_at", "updated_at", "importance"]), st.booleans()
        ),
        limit=st.sampled_from([1, 3, 50]),
        direction=st.integers(0, len(DIRECTIONS) - 1),
        query=st.sampled_from(QUERIES),
        ids=st.lists(st.sampled_from([*IDS, "none"]), min_size=1, max_size=3, unique=True),
    )


@asynccontextmanager
async def opened(
    names: list[str], folder: Path, server_of: GetServer
) -> AsyncIterator[dict[str, MemoryStore]]:
    """The stores of these names, by name."""
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(opener(name, folder / "memories.db", server_of)())
            for name in names
        }


@pytest.fixture
async def sqlite(
    anyio_backend: str, tmp_path: Path, wiped_server: GetServer
) -> AsyncIterator[dict[str, MemoryStore]]:
    async with opened(["sqlite"], tmp_path, wiped_server) as stores:
        yield stores


@pytest.fixture
async def stores(
    anyio_backend: str, tmp_path: Path, wiped_server: GetServer
) -> AsyncIterator[dict[str, MemoryStore]]:
    async with opened(store_names(), tmp_path, wiped_server) as stores:
        yield stores


def carried_out(store: MemoryStore, tenant: str, change: Change) -> Awaitable[Any]:
    match change:
        case Change("remember", (given_drafts, now)):
            return store.remember(tenant, given_drafts, now=now)
        case Change("update", (memory, embedding, version)):
            return store.update(tenant, memory, embedding, expected_version=version)
        case Change("delete", (document, now, dry_run)):
            return store.delete(tenant, parse_filter(document), now=now, dry_run=dry_run)
        case Change("relate", (relations,)):
            return store.relate(tenant, relations)
        case Change("unrelate", (source, target, relation_type)):
            return store.unrelate(tenant, source, target, relation_type)
    raise AssertionError(change)


async def the_same(stores: dict[str, MemoryStore], call: Call, what: str) -> Any:
    """The answer that all stores give."""

    async def answer(store: MemoryStore) -> Any:
        try:
            return await call(store)
        except Conflict:
            return Conflict

    answers = dict(zip(stores, await asyncio.gather(*map(answer, stores.values())), strict=True))
    first, *others = answers
    for other in others:
        if answers[other] != answers[first]:
            note(f"{what}\n{first}: {answers[first]}\n{other}: {answers[other]}")
        assert answers[other] == answers[first], (what, first, other)
    return answers[first]


def visible(memory: Memory, check: Check) -> bool:
    expires_at, as_of = memory.expires_at, check.as_of
    if expires_at is not None and expires_at <= check.now:
        return False
    return as_of is None or (
        memory.valid_from <= as_of
        and (memory.valid_to is None or as_of < memory.valid_to)
        and (expires_at is None or as_of < expires_at)
    )


def in_order(memories: list[Memory], order: Order) -> list[Memory]:
    return sorted(
        memories,
        key=lambda memory: (getattr(memory, order.field), memory.id),
        reverse=order.descending,
    )


def nearest(records: list[Record], direction: int) -> list[Match]:
    similarities = [
        round(float(record.embedding @ DIRECTIONS[direction]), SIMILARITY_DECIMALS)
        for record in records
    ]
    ranked = sorted(
        (-similarity, -to_microseconds(record.memory.created_at), record.memory.id)
        for record, similarity in zip(records, similarities, strict=True)
    )
    return [Match(id, -similarity) for similarity, _, id in ranked]


def by_words(memories: list[Memory], words: list[str]) -> list[WordMatch]:
    texts = [(memory, indexed_words(memory.title, memory.content)) for memory in memories]
    candidates = [
        Candidate(memory.id, memory.created_at, text)
        for memory, text in texts
        if not set(words).isdisjoint(text.split())
    ]
    return rank_by_words(words, candidates)


def counted(names: Iterator[str]) -> list[Count]:
    counts = Counter(names).items()
    return [Count(name, n) for name, n in sorted(counts, key=lambda count: (-count[1], count[0]))]


async def check_answers(
    stores: dict[str, MemoryStore], tenant: str, check: Check, records: list[Record]
) -> None:
    """Every way of asking about a selection gives what plain Python finds among the records."""
    selection = selected(tenant, check.document, now=check.now, as_of=check.as_of)
    found = [
        record
        for record in records
        if visible(record.memory, check) and matches(selection.filter, record.memory)
    ]
    kept = [record.memory for record in found]
    by_id = {memory.id: memory for memory in kept}
    limit, words = check.limit, query_words_of(check.query)

    async def same(call: Call, what: str) -> Any:
        return await the_same(stores, call, what)

    assert await same(lambda store: store.count(selection), "count") == len(kept)
    got = await same(lambda store: store.get(selection, check.ids), "get")
    assert got == [by_id.get(id) for id in check.ids]
    await check_pages(stores, selection, check, in_order(kept, check.order))
    assert (
        await same(lambda store: store.search_words(selection, words, limit=limit), "search_words")
        == by_words(kept, words)[:limit]
    )
    tags = (tag for memory in kept for tag in memory.tags)
    assert await same(lambda store: store.tags(selection), "tags") == counted(tags)
    contexts = (memory.context for memory in kept if memory.context is not None)
    assert await same(lambda store: store.contexts(selection), "contexts") == counted(contexts)
    id = check.ids[0]
    history = await same(lambda store: store.history(selection, id), "history")
    assert {memory.id for memory in history} <= by_id.keys()
    assert id not in by_id or by_id[id] in history
    await same(
        lambda store: store.relations(selection, check.ids, relation_types=None), "relations"
    )
    expected = nearest(found, check.direction)[:limit]
    for name, store in stores.items():
        query = DIRECTIONS[check.direction]
        answer = await store.search_embedding(selection, query, limit=limit)
        assert [match.id for match in answer] == [match.id for match in expected], name
        assert [match.similarity for match in answer] == pytest.approx(
            [match.similarity for match in expected], abs=1e-4
        )


async def check_pages(
    stores: dict[str, MemoryStore], selection: Selection, check: Check, expected: list[Memory]
) -> None:
    order, limit = check.order, check.limit

    def page(after: Position | None) -> Call:
        return lambda store: store.page(selection, order=order, after=after, limit=limit)

    first = await the_same(stores, page(None), "page")
    assert first == expected[:limit]
    if first:
        value = getattr(first[-1], order.field)
        after = Position(
            value if order.field == "importance" else to_microseconds(value), first[-1].id
        )
        assert await the_same(stores, page(after), "next page") == expected[limit : 2 * limit]


def test_cosines_at_random_are_equal_or_far_from_equal() -> None:
    pairs = combinations(np.stack(DIRECTIONS).astype(np.float64), 2)
    scaled = np.sort([first @ second for first, second in pairs]) * 10**SIMILARITY_DECIMALS
    gaps = np.diff(scaled)
    assert ((gaps < 0.2) | (gaps > 10)).all()
    assert (np.abs(scaled % 1 - 0.5) > 0.1).all()


async def check_scenario(
    stores: dict[str, MemoryStore], made: list[Change], asked: list[Check]
) -> None:
    """Carry out the changes on all stores, and check everything that can be asked after them."""
    tenant = unique_tenant()
    for given_change in made:

        def carry_out(store: MemoryStore, change: Change = given_change) -> Awaitable[Any]:
            return carried_out(store, tenant, change)

        await the_same(stores, carry_out, str(given_change))

    async def whole(store: MemoryStore) -> Any:
        records = await store.records(tenant, now=EARLIEST, after=None, limit=100)
        return [(record.memory, record.embedding.tolist()) for record in records]

    records = [
        Record(memory, np.array(embedding, np.float32))
        for memory, embedding in await the_same(stores, whole, "records")
    ]
    await the_same(
        stores, lambda store: store.relations_after(tenant, None, limit=100), "relations_after"
    )
    await the_same(stores, lambda store: store.stats(tenant, now=at(1)), "stats")
    for check in asked:
        note(f"filter: {check.document}")
        await check_answers(stores, tenant, check, records)


def examples(count: int) -> settings:
    """So many examples, which may be large and take long."""
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


@pytest.mark.anyio
@examples(40)
@given(made=changes(), asked=st.lists(checks(), min_size=6, max_size=12))
async def test_sqlite_gives_the_right_answers(
    sqlite: dict[str, MemoryStore], made: list[Change], asked: list[Check]
) -> None:
    await check_scenario(sqlite, made, asked)


@pytest.mark.anyio
@pytest.mark.skipif(store_names() == ["sqlite"], reason="Neo4j cannot be had")
@examples(3)
@given(made=changes(), asked=st.lists(checks(), min_size=3, max_size=5))
async def test_stores_give_the_same_answers_and_the_right_ones(
    stores: dict[str, MemoryStore], made: list[Change], asked: list[Check]
) -> None:
    await check_scenario(stores, made, asked)


@pytest.mark.slow
@pytest.mark.anyio
@examples(20)
@given(made=changes(), asked=st.lists(checks(), min_size=4, max_size=7))
async def test_stores_give_the_same_answers_to_hundreds_of_questions(
    stores: dict[str, MemoryStore], made: list[Change], asked: list[Check]
) -> None:
    await check_scenario(stores, made, asked)
