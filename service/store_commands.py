"""The commands that move memories: dump, load, migrate and re-embed. All may be run again."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from service.audit import audit, command_line_user
from service.embedding.manifest import read_manifest
from service.errors import InvalidInput, InvalidSettings, StoreLoadError
from service.memory import open_store
from service.memory.knowledge_graph_file import as_dump
from service.memory.memories import Memories, embedding_model_of
from service.memory.model import Embedding, Memory
from service.memory.store import EmbeddingModel, MemoryStore
from service.memory.transfer import LINES_AT_ONCE, Progress, dump, lines_of, load
from service.opening import MODEL_NOT_SET, open_embedder_of, store_address
from service.progress import show_progress
from service.settings import DEFAULT_TENANT, Settings

STANDARD_STREAM = Path("-")

_EVER = datetime.min.replace(tzinfo=UTC)  # nothing is forgotten yet


def dump_store(settings: Settings, file: Path, *, embeddings: bool) -> None:
    """Write all memories of all tenants into a file as JSON lines; `-` is the standard output.

    Raises:
        StartupError: the store cannot be opened, or the file cannot be written.
    """
    asyncio.run(_dump(settings, file, embeddings))


def load_store(settings: Settings, file: Path) -> None:
    """Write the lines of a dump, or of an MCP memory server's file, into the store.

    `-` is the standard input.

    Raises:
        StartupError: the store cannot be opened, or the file is not a dump.
    """
    asyncio.run(_load(settings, file))


def migrate_store(settings: Settings, source: str, target: str) -> None:
    """Copy all memories from one store to another, with their embeddings.

    Raises:
        StartupError: a store cannot be opened, or the target has the embeddings of another model.
    """
    asyncio.run(_migrate(settings, source, target))


def re_embed_store(settings: Settings) -> None:
    """Give every memory an embedding of the model that is set, going on where it was interrupted.

    Raises:
        StartupError: the store or the model cannot be opened.
    """
    asyncio.run(_re_embed(settings))


async def _dump(settings: Settings, file: Path, embeddings: bool) -> None:
    async with open_store(store_address(settings), None) as store:
        pieces = dump(store, now=datetime.now(UTC), embeddings=embeddings)
        try:
            if file == STANDARD_STREAM:
                await _write(store, pieces, sys.stdout.fileno())
                return
            # Under another name until it is whole, so that no half of a dump passes for one.
            partial = file.with_name(f"{file.name}.partial")
            with partial.open("wb") as output:
                await _write(store, pieces, output.fileno())
                os.fsync(output.fileno())
            partial.replace(file)
        except OSError as error:
            raise StoreLoadError(f"{file} cannot be written ({error.strerror})") from error


async def _write(
    store: MemoryStore, pieces: AsyncIterator[tuple[bytes, int]], descriptor: int
) -> None:
    with show_progress("lines", await _count(store)) as progress:
        async for piece, lines in pieces:
            await asyncio.to_thread(_write_all, descriptor, piece)
            progress.update(lines)


def _write_all(descriptor: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


async def _load(settings: Settings, file: Path) -> None:
    async with AsyncExitStack() as opened:
        model = _model_of(settings)
        store = await opened.enter_async_context(open_store(store_address(settings), model))
        embedding = _LazyEmbedder(settings, store, opened)
        lines = as_dump(_lines(file), at=_last_written(file))
        loading = load(
            store, lines, tenant=DEFAULT_TENANT, other_tenants=True, embed=embedding.embed
        )
        await _report(loading, None, of=str(file))


async def _migrate(settings: Settings, source: str, target: str) -> None:
    if source == target:
        raise InvalidSettings(f"expected two different stores, got {source} twice")
    address = store_address(settings)
    async with open_store(msgspec.structs.replace(address, url=source), None) as origin:
        model = (await origin.info()).embedding_model
        async with open_store(msgspec.structs.replace(address, url=target), model) as destination:
            pieces = dump(origin, now=datetime.now(UTC), embeddings=True)
            lines = lines_of(piece async for piece, _ in pieces)
            loading = load(
                destination,
                lines,
                tenant=DEFAULT_TENANT,
                other_tenants=True,
                embed=_nothing_to_embed,
            )
            await _report(loading, await _count(origin), of=source)


async def _re_embed(settings: Settings) -> None:
    model = _model_of(settings)
    async with (
        open_store(store_address(settings), None, re_embedding=True) as store,
        open_embedder_of(settings) as embedder,
    ):
        place = await store.start_re_embedding(model)
        memories = Memories(store, embedder, relevance_cutoff=0.0)
        with show_progress("memories", await _count(store, relations=False)) as progress:
            for tenant in await store.tenants():
                if place is not None and tenant < place[0]:
                    continue
                after = place[1] if place is not None and tenant == place[0] else None
                while page := await store.records(
                    tenant, now=_EVER, after=after, limit=LINES_AT_ONCE
                ):
                    found = [record.memory for record in page]
                    embeddings = await memories.embed_for_load(found)
                    after = found[-1].id
                    await store.replace_embeddings(
                        tenant, [memory.id for memory in found], np.stack(embeddings)
                    )
                    progress.update(len(found))
        await store.finish_re_embedding()


class _LazyEmbedder:
    """Embeds with the model that is set, which is loaded when there is something to embed."""

    def __init__(self, settings: Settings, store: MemoryStore, opened: AsyncExitStack) -> None:
        self._settings = settings
        self._store = store
        self._opened = opened
        self._memories: Memories | None = None

    async def embed(self, memories: Sequence[Memory]) -> Sequence[Embedding]:
        if self._memories is None:
            embedder = await self._opened.enter_async_context(open_embedder_of(self._settings))
            self._memories = Memories(self._store, embedder, relevance_cutoff=0.0)
        return await self._memories.embed_for_load(memories)


async def _nothing_to_embed(memories: Sequence[Memory]) -> Sequence[Embedding]:
    raise AssertionError(f"{len(memories)} memories came without an embedding of the same model")


async def _report(loading: AsyncIterator[Progress], total: int | None, *, of: str) -> None:
    latest = Progress()
    try:
        with show_progress("lines", total) as progress:
            async for latest in loading:
                progress.update(latest.lines - progress.n)
    except InvalidInput as error:
        raise StoreLoadError(f"not a dump, or a damaged one: {error}") from None
    finally:
        if written := latest.created + latest.replaced:
            what = f"memories of {of}"
            audit("import", by=command_line_user(), tenant="*", what=what, count=written)
    counts = msgspec.structs.asdict(latest)
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()), file=sys.stderr)


async def _lines(file: Path) -> AsyncIterator[bytes]:
    try:
        with open(0 if file == STANDARD_STREAM else file, "rb") as lines:
            while line := await asyncio.to_thread(lines.readline):
                yield line
    except OSError as error:
        raise StoreLoadError(f"{file} cannot be read ({error.strerror})") from error


def _last_written(file: Path) -> datetime:
    if file == STANDARD_STREAM or not file.exists():
        return datetime.now(UTC)
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)


def _model_of(settings: Settings) -> EmbeddingModel:
    if settings.model is None:
        raise InvalidSettings(MODEL_NOT_SET)
    return embedding_model_of(read_manifest(settings.model))


async def _count(store: MemoryStore, *, relations: bool = True) -> int:
    now = datetime.now(UTC)
    stats = [await store.stats(tenant, now=now) for tenant in await store.tenants()]
    return sum(each.memories + (each.relations if relations else 0) for each in stats)
