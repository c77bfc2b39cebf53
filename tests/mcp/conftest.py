"""The tools as a client of the official SDK sees them, on stores of their own."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from mcp import Client

from service.embedding.manifest import read_manifest
from service.mcp.server import Context, create_server
from service.mcp.tool import Access
from service.memory.memories import Memories, embedding_model_of
from service.memory.sqlite_store import open_sqlite_store
from service.memory.store import MemoryStore
from service.opening import open_embedder_of, relevance_cutoff
from service.settings import Settings
from tests.memory.conftest import OpenStore, open_store, wiped_server
from tests.memory.memories import unique_tenant

__all__ = ["open_store", "wiped_server"]


@asynccontextmanager
async def connected(
    bundle: Path, opened: AbstractAsyncContextManager[MemoryStore]
) -> AsyncIterator[Client]:
    """A client of a tenant that has nothing yet."""
    settings = Settings(model=bundle, warm_up=False)
    tenant = unique_tenant()
    async with open_embedder_of(settings) as embedder, opened as store:
        memories = Memories(store, embedder, relevance_cutoff=relevance_cutoff(settings, embedder))

        async def admit(context: Context, access: Access) -> tuple[Memories, str]:
            return memories, tenant

        async with Client(create_server(admit)) as client:
            yield client


@pytest.fixture
async def client(anyio_backend: str, starter_bundle: Path, tmp_path: Path) -> AsyncIterator[Client]:
    """A client on a store that holds nothing."""
    model = embedding_model_of(read_manifest(starter_bundle))
    async with connected(
        starter_bundle, open_sqlite_store(tmp_path / "memory.db", model)
    ) as client:
        yield client


@pytest.fixture
async def client_on_each_store(
    anyio_backend: str, starter_bundle: Path, open_store: OpenStore
) -> AsyncIterator[Client]:
    """A client on a store of each kind."""
    model = embedding_model_of(read_manifest(starter_bundle))
    async with connected(starter_bundle, open_store(model)) as client:
        yield client
