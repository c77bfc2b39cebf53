"""What only the store on Neo4j has: a server that goes away, others that write, its own schema."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from neo4j import AsyncGraphDatabase, Record

from service.errors import EmbeddingModelMismatch, StoreLoadError, StoreUnavailable
from service.memory import neo4j_client
from service.memory.filters import parse_filter
from service.memory.neo4j_store import Neo4jStore, open_neo4j_store
from service.memory.store import EmbeddingModel
from tests.memory.memories import (
    MODEL,
    NOW,
    draft,
    embedding,
    outcomes,
    relation,
    remember,
    selected,
    unique_tenant,
)
from tests.neo4j_server import (
    VERSIONS,
    Neo4jServer,
    running_neo4j,
    versions_to_test,
    why_unavailable,
    wipe,
)
from tests.stores import GetServer

pytestmark = pytest.mark.anyio


@pytest.fixture(params=versions_to_test())
def server(request: pytest.FixtureRequest, wiped_server: GetServer) -> Neo4jServer:
    """A server of each version that can be had."""
    return wiped_server(request.param)


@pytest.fixture
def emptied_server(server: Neo4jServer) -> Iterator[Neo4jServer]:
    """A server without anything, before and after the test."""
    wipe(server)
    yield server
    wipe(server)


def opened(
    server: Neo4jServer, model: EmbeddingModel | None = MODEL, **changed: Any
) -> AbstractAsyncContextManager[Neo4jStore]:
    """The store on a server, with other arguments where they are given."""
    arguments = {
        "username": server.username,
        "password": server.password,
        "database": "neo4j",
    }
    uri = changed.pop("uri", server.uri)
    return open_neo4j_store(uri, model, **(arguments | changed))


async def rows(server: Neo4jServer, statement: str, **parameters: Any) -> list[Record]:
    """What a statement gives, past the store."""
    auth = (server.username, server.password)
    async with AsyncGraphDatabase.driver(server.uri, auth=auth) as driver:
        return (await driver.execute_query(statement, parameters)).records


async def shared_nodes(server: Neo4jServer, tenant: str) -> list[tuple[str, str]]:
    """The kinds and names of the nodes that a tenant's memories share."""
    found = await rows(
        server,
        "MATCH (n {tenant: $tenant}) WHERE n.name IS NOT NULL "
        "RETURN labels(n)[0] AS kind, n.name AS name ORDER BY kind, name",
        tenant=tenant,
    )
    return [(row["kind"], row["name"]) for row in found]


async def test_a_wrong_password_is_told_without_it(server: Neo4jServer) -> None:
    with pytest.raises(StoreLoadError, match="refused the login") as raised:
        async with opened(server, password="not the password"):
            pass
    assert "not the password" not in str(raised.value)


async def test_a_server_that_is_not_there_is_told(server: Neo4jServer) -> None:
    with pytest.raises(StoreLoadError, match=r"127\.0\.0\.1:1 "):
        async with opened(server, uri="bolt://127.0.0.1:1"):
            pass


@pytest.mark.parametrize("uri", ["bolt://", "elsewhere://localhost", "neo4j+s://:7687:7687"])
async def test_an_address_that_is_none_is_told(server: Neo4jServer, uri: str) -> None:
    with pytest.raises(StoreLoadError):
        async with opened(server, uri=uri):
            pass


async def test_a_database_that_is_not_there_is_told(server: Neo4jServer) -> None:
    with pytest.raises(StoreLoadError, match="NEO4J_DATABASE"):
        async with opened(server, database="elsewhere"):
            pass


async def test_the_address_of_a_store_has_no_credentials(server: Neo4jServer) -> None:
    async with opened(server) as store:
        info = await store.info()
        assert (info.kind, info.address) == ("neo4j", server.uri)
        assert info.version[0].isdigit()
        assert server.password not in repr(vars(store))


async def test_an_empty_database_is_no_store_without_a_model(emptied_server: Neo4jServer) -> None:
    with pytest.raises(StoreLoadError, match="there is no store"):
        async with opened(emptied_server, model=None):
            pass
    assert await rows(emptied_server, "MATCH (n) RETURN n") == []


async def test_a_store_of_a_newer_version_is_refused(emptied_server: Neo4jServer) -> None:
    async with opened(emptied_server):
        pass
    await rows(emptied_server, "MATCH (s:Store) SET s.schema_version = 1000")
    with pytest.raises(StoreLoadError, match="use a newer service"):
        async with opened(emptied_server):
            pass


async def test_an_opening_that_was_interrupted_is_finished_by_the_next(
    emptied_server: Neo4jServer,
) -> None:
    async with opened(emptied_server):
        pass
    await rows(emptied_server, "MATCH (s:Store) SET s.schema_version = 0")
    await rows(emptied_server, "DROP CONSTRAINT tag_name")
    await rows(emptied_server, "DROP INDEX memory_embedding")
    async with opened(emptied_server) as store:
        await remember(store, "tenant", draft("tea", tags=("a",)))
        found = await rows(emptied_server, "SHOW INDEXES YIELD name RETURN collect(name) AS names")
    assert {"tag_name", "memory_embedding"} <= set(found[0]["names"])


async def test_a_vector_index_that_is_another_is_made_anew(emptied_server: Neo4jServer) -> None:
    async with opened(emptied_server) as store:
        await remember(store, "tenant", draft("tea"))
    await rows(emptied_server, "DROP INDEX memory_embedding")
    await rows(
        emptied_server,
        "CREATE VECTOR INDEX memory_embedding FOR (m:Memory) ON (m.embedding) "
        "OPTIONS {indexConfig: {`vector.dimensions`: 3, `vector.similarity_function`: 'cosine'}}",
    )
    async with opened(emptied_server):
        found = await rows(emptied_server, "SHOW VECTOR INDEXES YIELD options, state")
    assert found[0]["options"]["indexConfig"]["vector.dimensions"] == MODEL.dimensions
    assert found[0]["state"] == "ONLINE"


async def test_stores_that_are_opened_at_once_are_one(emptied_server: Neo4jServer) -> None:
    async def write(number: int) -> None:
        async with opened(emptied_server) as store:
            await remember(store, "tenant", draft(f"tea {number}"))

    await asyncio.gather(*(write(number) for number in range(4)))
    async with opened(emptied_server) as store:
        assert await store.count(selected("tenant")) == 4


async def test_writing_ends_when_the_store_gets_another_model(emptied_server: Neo4jServer) -> None:
    coming = EmbeddingModel(name="coming", digest="b" * 64, dimensions=24)
    async with opened(emptied_server) as store:
        await remember(store, "tenant", draft("tea", id="a"))
        async with opened(emptied_server, coming, re_embedding=True) as other:
            await other.start_re_embedding(coming)
            with pytest.raises(StoreUnavailable, match="another model"):
                await remember(store, "tenant", draft("milk"))
            with pytest.raises(StoreUnavailable, match="another model"):
                await store.ping()
            with pytest.raises(EmbeddingModelMismatch):
                async with opened(emptied_server):
                    pass
            await other.finish_re_embedding()
            await remember(
                other, "tenant", draft("milk", direction=np.eye(1, 24, dtype=np.float32)[0])
            )
        with pytest.raises(StoreUnavailable, match="another model"):
            await remember(store, "tenant", draft("water"))


async def test_nodes_that_no_memory_has_any_more_are_gone(server: Neo4jServer) -> None:
    tenant = unique_tenant()
    whole: dict[str, Any] = {
        "tags": ("a", "b"),
        "context": "work",
        "user_id": "ada",
        "session_id": "s",
    }
    async with opened(server) as store:
        await remember(store, tenant, draft("one", id="one", **whole))
        await remember(store, tenant, draft("two", id="two", **(whole | {"tags": ("b",)})))
        await store.delete(tenant, parse_filter({"id": "one"}), now=NOW)
        kept = [("Context", "work"), ("Session", "s"), ("Tag", "b"), ("User", "ada")]
        assert await shared_nodes(server, tenant) == kept
        await remember(store, tenant, draft("two", id="two", tags=("c",), replace=True))
        assert await shared_nodes(server, tenant) == [("Tag", "c")]
        await store.delete(tenant, parse_filter({}), now=NOW)
        assert await shared_nodes(server, tenant) == []


async def test_writers_and_deleters_of_two_services_leave_no_orphans(server: Neo4jServer) -> None:
    tenant = unique_tenant()

    async def write(store: Neo4jStore, name: str) -> None:
        for number in range(10):
            await remember(store, tenant, draft(f"{name} {number}", tags=("shared",), context="c"))

    async def delete(store: Neo4jStore) -> None:
        for _ in range(10):
            await store.delete(tenant, parse_filter({"tags": "shared"}), now=NOW)

    async with opened(server) as one, opened(server) as other:
        await asyncio.gather(write(one, "one"), write(other, "other"), delete(one), delete(other))
        left = await one.count(selected(tenant))
        tags = [(tag.name, tag.memories) for tag in await one.tags(selected(tenant))]
        assert tags == ([("shared", left)] if left else [])
        expected = [("Context", "c"), ("Tag", "shared")] if left else []
        assert await shared_nodes(server, tenant) == expected


async def test_two_services_have_one_winner(server: Neo4jServer) -> None:
    tenant = unique_tenant()

    async def results(
        stores: Sequence[Neo4jStore], contents: Sequence[str], **fields: Any
    ) -> list[str]:
        calls = [
            outcomes(stores[number % 2], tenant, draft(content, **fields))
            for number, content in enumerate(contents)
        ]
        return sorted(outcome for (outcome,) in await asyncio.gather(*calls))

    different = [f"content {number}" for number in range(8)]
    async with opened(server) as one, opened(server) as other:
        stores = (one, other)
        assert await results(stores, ["tea"] * 8) == ["created"] + ["duplicate"] * 7
        assert await results(stores, different, id="a") == ["conflict"] * 7 + ["created"]
        succeeding = await results(stores, different, supersedes="a")
        assert succeeding == ["already_superseded"] * 7 + ["created"]


async def test_relation_types_of_clients_are_no_types_of_the_database(server: Neo4jServer) -> None:
    tenant = unique_tenant()
    async with opened(server) as store:
        await remember(store, tenant, draft("one", id="a"), draft("two", id="b"))
        await store.relate(tenant, [relation("a", "b", "CAUSES"), relation("a", "b", "likes")])
        found = await rows(
            server,
            "MATCH (:Memory {tenant: $tenant})-[r]->(:Memory) "
            "RETURN type(r) AS type, r.relation_type AS told ORDER BY type",
            tenant=tenant,
        )
    assert [tuple(row) for row in found] == [("CAUSES", "CAUSES"), ("RELATION", "likes")]


async def test_metadata_keys_are_no_names_in_the_database(server: Neo4jServer) -> None:
    tenant = unique_tenant()
    key = f"key of {tenant}"
    async with opened(server) as store:
        await remember(store, tenant, draft("one", metadata={key: 1}))
        assert await store.count(selected(tenant, {f"metadata.{key}": 1})) == 1
        found = await rows(server, "CALL db.propertyKeys() YIELD propertyKey AS name RETURN name")
    assert key not in [row["name"] for row in found]


async def test_a_call_that_the_server_refuses_fails_alone(server: Neo4jServer) -> None:
    """No index takes a key so long; the others in its group are written."""
    tenant = unique_tenant()
    async with opened(server) as store:
        calls = [
            remember(store, tenant, draft("one", id="a")),
            remember(store, tenant, draft("two", id="x" * 100_000)),
            remember(store, tenant, draft("three", id="b")),
        ]
        first, second, third = await asyncio.gather(*calls, return_exceptions=True)
        assert not isinstance(first, BaseException)
        assert isinstance(second, StoreUnavailable)
        assert not isinstance(third, BaseException)
        assert await store.count(selected(tenant)) == 2


async def test_a_call_that_is_cancelled_leaves_the_others_of_its_group(server: Neo4jServer) -> None:
    tenant = unique_tenant()
    async with opened(server) as store:
        calls = [
            asyncio.create_task(remember(store, tenant, draft(f"tea {number}")))
            for number in range(5)
        ]
        await asyncio.sleep(0)
        calls[2].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results[2], asyncio.CancelledError)
        assert sum(isinstance(result, list) for result in results) == 4


async def test_a_store_that_is_closed_has_answered_every_call(server: Neo4jServer) -> None:
    tenant = unique_tenant()
    async with opened(server) as store:
        calls = [
            asyncio.create_task(remember(store, tenant, draft(f"tea {number}")))
            for number in range(5)
        ]
        await asyncio.sleep(0)
    results = await asyncio.gather(*calls)
    assert [result.outcome for (result,) in results] == ["created"] * 5


async def test_a_server_that_is_cut_off_without_a_word_is_unavailable(
    server: Neo4jServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    passing = asyncio.Event()
    passing.set()
    port = urlsplit(server.uri).port

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            while data := await reader.read(65_536):
                await passing.wait()
                writer.write(data)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(forward(reader, their_writer), forward(their_reader, writer))

    async with await asyncio.start_server(connect, "127.0.0.1", 0) as between:
        uri = f"bolt://127.0.0.1:{between.sockets[0].getsockname()[1]}"
        async with opened(server, uri=uri) as store:
            await store.ping()
            passing.clear()
            with monkeypatch.context() as hasty:
                for wait in ("PATIENCE_SECONDS", "CONNECT_SECONDS"):
                    hasty.setattr(neo4j_client, wait, 0.1)
                with pytest.raises(StoreUnavailable, match="does not answer"):
                    await store.ping()
            passing.set()
            await store.ping()


@pytest.mark.slow
@pytest.mark.skipif(
    not set(versions_to_test()) & set(VERSIONS),
    reason=why_unavailable() or "the server that runs already is not ours to stop",
)
@pytest.mark.parametrize("version", [v for v in versions_to_test() if v in VERSIONS] or [""])
async def test_what_was_acknowledged_outlives_the_server_and_the_store_finds_it_again(
    version: str, tmp_path: Path
) -> None:
    acknowledged: list[str] = []
    unknown: list[str] = []
    written = asyncio.Event()

    async def write(store: Neo4jStore, writer: int) -> None:
        for number in range(10_000):
            given = draft(f"tea {writer} {number}")
            try:
                await remember(store, "tenant", given)
            except StoreUnavailable:
                unknown.append(given.memory.id)
                return
            acknowledged.append(given.memory.id)
            if len(acknowledged) >= 30:
                written.set()

    with running_neo4j(version, tmp_path) as server:
        async with opened(server) as store:
            writers = [asyncio.create_task(write(store, writer)) for writer in range(4)]
            await written.wait()
            server.kill()
            await asyncio.gather(*writers)
            for gone in (store.ping(), store.count(selected("tenant"))):
                with pytest.raises(StoreUnavailable):
                    await gone
            server.start()
            await store.ping()
            found = await store.get(selected("tenant"), acknowledged)
            assert [memory and memory.id for memory in found] == acknowledged
            matches = await store.search_embedding(
                selected("tenant"), embedding(), limit=len(acknowledged) + len(unknown)
            )
            there = {match.id for match in matches}
            assert set(acknowledged) <= there <= {*acknowledged, *unknown}
            assert await outcomes(store, "tenant", draft("after")) == ["created"]
