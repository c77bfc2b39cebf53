"""Stores to hold to the contract, each in a place of its own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from functools import cache
from pathlib import Path
from typing import Protocol

import pytest

from service.embedding.embedder import Embedder
from service.memory.neo4j_store import open_neo4j_store
from service.memory.sqlite_store import open_sqlite_store
from service.memory.store import EmbeddingModel, MemoryStore
from service.opening import open_embedder_of
from service.settings import Settings
from tests.memory.memories import MODEL, unique_tenant
from tests.neo4j_server import Neo4jServer, wipe
from tests.stores import NEO4J, GetServer


class OpenStore(Protocol):
    """Opens the store that lies in one place, with what is there."""

    def __call__(
        self, model: EmbeddingModel | None = MODEL, *, re_embedding: bool = False
    ) -> AbstractAsyncContextManager[MemoryStore]: ...


@pytest.fixture(scope="module")
def wiped_server(running_server: GetServer) -> GetServer:
    """Gives the server of a version, empty when it is asked for first."""

    @cache
    def server_of(version: str) -> Neo4jServer:
        server = running_server(version)
        wipe(server)
        return server

    return server_of


def opener(store_name: str, path: Path, server_of: GetServer) -> OpenStore:
    """Opens the store of this name: the one at the path, or the one on its server."""

    def open_store(
        model: EmbeddingModel | None = MODEL, *, re_embedding: bool = False
    ) -> AbstractAsyncContextManager[MemoryStore]:
        if store_name == "sqlite":
            return open_sqlite_store(path, model, re_embedding=re_embedding)
        server = server_of(store_name.removeprefix(NEO4J))
        return open_neo4j_store(
            server.uri,
            model,
            username=server.username,
            password=server.password,
            database="neo4j",
            re_embedding=re_embedding,
        )

    return open_store


@pytest.fixture
def open_store(store_name: str, tmp_path: Path, wiped_server: GetServer) -> OpenStore:
    """Opens the store of a test; what it holds is there when it is opened again."""
    return opener(store_name, tmp_path / "memories.db", wiped_server)


@pytest.fixture
async def store(anyio_backend: str, open_store: OpenStore) -> AsyncIterator[MemoryStore]:
    """A store that others have been using: what it holds of the test's tenant is nothing."""
    async with open_store() as store:
        yield store


@pytest.fixture
def empty_place(store_name: str, tmp_path: Path, running_server: GetServer) -> Iterator[OpenStore]:
    """Opens a store that holds nothing and that nobody sees after."""

    @cache
    def server_of(version: str) -> Neo4jServer:
        server = running_server(version)
        wipe(server)
        return server

    yield opener(store_name, tmp_path / "vacant.db", server_of)
    if store_name.startswith(NEO4J):
        wipe(running_server(store_name.removeprefix(NEO4J)))


@pytest.fixture(scope="module")
async def embedder(anyio_backend: str, starter_bundle: Path) -> AsyncIterator[Embedder]:
    """The starter model, which the tests of a module share."""
    async with open_embedder_of(Settings(model=starter_bundle)) as embedder:
        yield embedder


@pytest.fixture
def tenant() -> str:
    """The tenant of the test."""
    return unique_tenant()
