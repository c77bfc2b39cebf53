"""Filters and searches on real servers, where the vector index is asked and where it is not."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.memory import neo4j_search
from service.memory.filters import matches
from service.memory.model import Memory, Record
from service.memory.neo4j_filters import searchable_predicate
from service.memory.neo4j_store import Neo4jStore, open_neo4j_store
from tests.memory.memories import (
    DIRECTIONS,
    MODEL,
    at,
    embedding,
    filter_documents,
    memories,
    memory,
    random_embeddings,
    selected,
    unique_tenant,
)
from tests.neo4j_server import Neo4jServer, connected, versions_to_test
from tests.stores import GetServer

pytestmark = pytest.mark.anyio


def opened(server: Neo4jServer) -> AbstractAsyncContextManager[Neo4jStore]:
    """The store on a server."""
    return open_neo4j_store(
        server.uri, MODEL, username=server.username, password=server.password, database="neo4j"
    )


@pytest.fixture(params=versions_to_test())
def server(request: pytest.FixtureRequest, wiped_server: GetServer) -> Neo4jServer:
    """A server of each version that can be had."""
    return wiped_server(request.param)


@pytest.fixture
async def store(anyio_backend: str, server: Neo4jServer) -> AsyncIterator[Neo4jStore]:
    """The store on that server."""
    async with opened(server) as store:
        yield store


@pytest.fixture
def index_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vector index is asked however few memories there are."""
    monkeypatch.setattr(neo4j_search, "EXACT_MEMORIES", 0)


async def nearest(
    store: Neo4jStore, tenant: str, document: dict[str, Any] | None = None, *, limit: int
) -> list[str]:
    """The ids of the selected memories that are nearest to the first direction."""
    matches = await store.search_embedding(selected(tenant, document), DIRECTIONS[0], limit=limit)
    return [match.id for match in matches]


def with_ids(given: list[Memory]) -> list[Record]:
    """The memories under ids of their own, each in a direction that others have too."""
    return [
        Record(
            msgspec.structs.replace(memory, id=f"id-{number}"),
            DIRECTIONS[number % len(DIRECTIONS)],
        )
        for number, memory in enumerate(given)
    ]


ASKED: dict[str, Any] = {
    "made": st.lists(memories(st.just("")), min_size=1, max_size=30),
    "documents": st.lists(filter_documents(), min_size=3, max_size=6),
    "as_of": st.none() | st.sampled_from([at(0), at(1), at(2)]),
}


async def check_index(
    store: Neo4jStore, made: list[Memory], documents: list[dict[str, Any]], as_of: datetime | None
) -> None:
    """Search among the memories under each of the filters, and count what passes."""
    tenant = unique_tenant()
    records = with_ids(made)
    await store.load(tenant, records)
    for document in documents:
        selection = selected(tenant, document, now=at(1), as_of=as_of)
        expected = {
            record.memory.id
            for record in records
            if matches(selection.filter, record.memory) and is_visible(record.memory, as_of)
        }
        found = await store.search_embedding(selection, DIRECTIONS[0], limit=50)
        assert {match.id for match in found} == expected
        assert await store.count(selection) == len(expected)


# The server takes a tenth of a second to plan a filter that it has not seen.
@pytest.mark.usefixtures("index_is_asked")
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(**ASKED)
async def test_the_index_finds_what_passes_the_filter_and_nothing_else(
    store: Neo4jStore, made: list[Memory], documents: list[dict[str, Any]], as_of: datetime | None
) -> None:
    await check_index(store, made, documents, as_of)


@pytest.mark.slow
@pytest.mark.usefixtures("index_is_asked")
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(**ASKED)
async def test_the_index_finds_it_under_hundreds_of_filters(
    store: Neo4jStore, made: list[Memory], documents: list[dict[str, Any]], as_of: datetime | None
) -> None:
    await check_index(store, made, documents, as_of)


def is_visible(memory: Memory, as_of: datetime | None) -> bool:
    """Whether it is selected at minute 1 with this `as_of`, as far as its times go."""
    if memory.expires_at is not None and memory.expires_at <= at(1):
        return False
    return as_of is None or (
        memory.valid_from <= as_of and (memory.expires_at is None or as_of < memory.expires_at)
    )


@pytest.mark.parametrize(
    ("document", "is_whole"),
    [
        ({"user_id": "ada", "importance": {"gte": 0.1, "lt": 0.5}}, True),
        ({"user_id": None, "memory_type": {"in": ["note", "fact"]}}, True),
        ({"created_at": {"gt": "2026-01-01T00:00:00Z"}, "expires_at": None}, False),
        ({"importance": {"gte": 0.1, "gt": 0.2}}, False),
        ({"user_id": {"in": ["ada", None]}}, False),
        ({"user_id": {"in": []}}, False),
        ({"tags": "a"}, False),
        ({"any": [{"user_id": "ada"}, {"user_id": "bob"}]}, False),
    ],
)
def test_the_index_is_asked_for_one_value_or_range_of_each_property(
    document: dict[str, Any], is_whole: bool
) -> None:
    predicate, complete = searchable_predicate(selected("tenant", document))
    assert complete == is_whole
    assert " OR " not in predicate.text


@pytest.mark.usefixtures("index_is_asked")
async def test_of_many_equal_embeddings_the_newest_are_found(store: Neo4jStore) -> None:
    tenant = unique_tenant()
    records = [
        Record(memory(f"tea {number}", id=f"{number:03}", created_at=at(number)), embedding(1))
        for number in range(300)
    ]
    await store.load(tenant, records[::2] + records[1::2])
    assert await nearest(store, tenant, limit=3) == ["299", "298", "297"]


@pytest.mark.usefixtures("index_is_asked")
async def test_as_many_are_found_as_there_are_however_far_away(store: Neo4jStore) -> None:
    tenant, other = unique_tenant(), unique_tenant()
    near = [
        Record(memory(f"tea {number}", id=f"{number:03}"), made)
        for number, made in enumerate(random_embeddings(400))
    ]
    far = [
        Record(memory(f"far {number}", id=f"far {number}", tags=("far",)), -DIRECTIONS[0])
        for number in range(4)
    ]
    await store.load(tenant, near + far)
    await store.load(other, far)
    assert len(await nearest(store, tenant, {"tags": "far"}, limit=3)) == 3
    assert len(await nearest(store, tenant, {"tags": "far"}, limit=9)) == 4
    assert len(await nearest(store, other, limit=9)) == 4
    assert len(await nearest(store, tenant, limit=404)) == 404


@pytest.mark.usefixtures("index_is_asked")
async def test_the_index_gives_the_order_of_an_exact_search(
    store: Neo4jStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = unique_tenant()
    records = [
        Record(memory(f"tea {number}", id=f"{number:03}"), made)
        for number, made in enumerate(random_embeddings(300, seed=1))
    ]
    await store.load(tenant, records)
    by_index = await nearest(store, tenant, limit=20)
    monkeypatch.setattr(neo4j_search, "EXACT_MEMORIES", 1_000)
    assert await nearest(store, tenant, limit=20) == by_index


@pytest.mark.usefixtures("index_is_asked")
async def test_without_its_index_a_search_is_an_exact_one(
    server: Neo4jServer, store: Neo4jStore, caplog: pytest.LogCaptureFixture
) -> None:
    tenant = unique_tenant()
    await store.load(tenant, [Record(memory("tea", id="a"), embedding(1))])
    with connected(server) as driver:
        driver.execute_query("DROP INDEX memory_embedding")
    assert await nearest(store, tenant, limit=5) == ["a"]
    assert "searching without it" in caplog.text
    async with opened(server) as again:
        caplog.clear()
        assert await nearest(again, tenant, limit=5) == ["a"]
        assert caplog.text == ""
