"""The stores that the contract holds for, each in a place of its own.

Neo4j servers are real ones. Where none can be had, only SQLite is tested and the summary says why;
with MEMORY_TEST_NEO4J_REQUIRED set that is a failure.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import Protocol

import pytest

from service.memory.neo4j_store import open_neo4j_store
from service.memory.sqlite_store import open_sqlite_store
from service.memory.store import EmbeddingModel, MemoryStore
from tests.memory.memories import MODEL, unique_tenant
from tests.neo4j_server import (
    VERSIONS,
    Neo4jServer,
    available_versions,
    running_neo4j,
    why_unavailable,
    wipe,
)

NEO4J = "neo4j-"
REQUIRED = "MEMORY_TEST_NEO4J_REQUIRED"


@cache
def store_names() -> list[str]:
    """The stores that can be tested here: sqlite, and neo4j-VERSION for each version."""
    versions = available_versions()
    if not versions and os.environ.get(REQUIRED):
        versions = list(VERSIONS)
    return ["sqlite", *(f"{NEO4J}{version}" for version in versions)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if store_names() == ["sqlite"]:
        terminalreporter.line(f"Neo4j was not tested: {why_unavailable()}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store_name" in metafunc.fixturenames:
        metafunc.parametrize("store_name", store_names())


class OpenStore(Protocol):
    """Opens the store that lies in one place, with what is there."""

    def __call__(
        self, model: EmbeddingModel | None = MODEL, *, re_embedding: bool = False
    ) -> AbstractAsyncContextManager[MemoryStore]: ...


GetServer = Callable[[str], Neo4jServer]


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GetServer]:
    """Gives the server of a version, started when it is asked for first."""
    with ExitStack() as servers:

        @cache
        def server_of(version: str) -> Neo4jServer:
            return servers.enter_context(running_neo4j(version, tmp_path_factory.mktemp("neo4j")))

        yield server_of


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


@pytest.fixture
def tenant() -> str:
    """The tenant of the test."""
    return unique_tenant()
