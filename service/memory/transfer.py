"""Memories as JSON lines, to keep elsewhere or to move to another store, and back.

A dump begins with a header. The lines of a tenant follow: its memories, by id, then the relations
between them. A dump of several tenants has a line before each. Every line can be written again
without harm, so that an interrupted load is simply repeated.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime

import msgspec
import numpy as np

from service.errors import InvalidInput
from service.memory.model import Embedding, Memory, Record, Relation
from service.memory.new_memory import MAX_CONTENT, checked_memory
from service.memory.store import EmbeddingModel, MemoryStore, checked_embeddings

FORMAT = 1

# How many lines are read or written at once.
LINES_AT_ONCE = 500

# A memory of the longest content and metadata with an embedding of 4,096 numbers.
MAX_LINE_BYTES = 6 * MAX_CONTENT + 262_144


class Header(msgspec.Struct, frozen=True, tag_field="type", tag="header", kw_only=True):
    """The first line: which model the embeddings are of."""

    format: int = FORMAT
    exported_at: datetime
    embedding_model: EmbeddingModel


class TenantLine(msgspec.Struct, frozen=True, tag_field="type", tag="tenant", kw_only=True):
    """The lines from here on are of this tenant."""

    tenant: str


class MemoryLine(Memory, frozen=True, tag_field="type", tag="memory", kw_only=True):
    """A memory; `embedding` are little-endian 32-bit floats in base64."""

    embedding: bytes | msgspec.UnsetType = msgspec.UNSET


class RelationLine(Relation, frozen=True, tag_field="type", tag="relation", kw_only=True):
    """A relation, or, of type SUPERSEDES, that a memory supersedes another."""


Line = Header | TenantLine | MemoryLine | RelationLine

_DECODER: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)

EmbedMemories = Callable[[Sequence[Memory]], Awaitable[Sequence[Embedding]]]
Room = Callable[[str, Sequence[str]], AbstractAsyncContextManager[None]]


class Progress(msgspec.Struct, kw_only=True):
    """How far a load has come. `dropped` relations lack a memory at one end."""

    lines: int = 0
    created: int = 0
    replaced: int = 0
    unchanged: int = 0
    kept: int = 0
    embedded: int = 0
    relations: int = 0
    dropped: int = 0


async def dump_header(store: MemoryStore, *, now: datetime) -> bytes:
    """The first line of a dump."""
    model = (await store.info()).embedding_model
    return line_of(Header(exported_at=now, embedding_model=model))


async def dump_tenant(
    store: MemoryStore, tenant: str, *, now: datetime, embeddings: bool
) -> AsyncIterator[tuple[bytes, int]]:
    """The lines of a tenant in pieces, and how many lines each has.

    What is written meanwhile may be in it or not; a relation is in it only with both its memories.
    """
    dumped: set[str] = set()
    after: str | None = None
    while records := await store.records(tenant, now=now, after=after, limit=LINES_AT_ONCE):
        after = records[-1].memory.id
        dumped.update(record.memory.id for record in records)
        yield b"".join(_memory_line(record, embeddings) for record in records), len(records)
    position: tuple[str, str, str] | None = None
    while relations := await store.relations_after(tenant, position, limit=LINES_AT_ONCE):
        last = relations[-1]
        position = (last.source, last.relation_type, last.target)
        lines = [
            line_of(RelationLine(**msgspec.structs.asdict(relation)))
            for relation in relations
            if relation.source in dumped and relation.target in dumped
        ]
        yield b"".join(lines), len(lines)


async def dump(
    store: MemoryStore, *, now: datetime, embeddings: bool
) -> AsyncIterator[tuple[bytes, int]]:
    """The lines of every tenant in pieces, and how many lines each has."""
    yield await dump_header(store, now=now), 0
    for tenant in await store.tenants():
        yield line_of(TenantLine(tenant=tenant)), 0
        async for piece in dump_tenant(store, tenant, now=now, embeddings=embeddings):
            yield piece


async def load(
    store: MemoryStore,
    lines: AsyncIterable[bytes],
    *,
    tenant: str,
    other_tenants: bool = False,
    embed: EmbedMemories,
    room: Room = lambda *_: nullcontext(),
) -> AsyncIterator[Progress]:
    """Write the lines of a dump into a store; gives how far it is now and then, and at the end.

    Lines are of `tenant` until the dump names another, if `other_tenants` may be. Embeddings are
    taken over where they are of the store's model, and are made anew otherwise. What is already
    there stays; a line that was changed since replaces what is older. `room` is entered with the
    tenant and the ids of memories while they are written, and may refuse them.

    Raises:
        InvalidInput: a line is not one of a dump; those before it were written.
    """
    model = (await store.info()).embedding_model
    loading = _Loading(store, tenant, other_tenants, embed, room, model)
    try:
        async for line in lines:
            if line.strip() and await loading.take(line):
                yield loading.progress
    except InvalidInput:
        await loading.write()
        yield loading.progress
        raise
    await loading.write()
    yield loading.progress


class _Loading:
    """The state of one load: lines that wait to be written together."""

    def __init__(
        self,
        store: MemoryStore,
        tenant: str,
        other_tenants: bool,
        embed: EmbedMemories,
        room: Room,
        model: EmbeddingModel,
    ) -> None:
        self.progress = Progress()
        self._store = store
        self._other_tenants = other_tenants
        self._tenant = tenant
        self._embed = embed
        self._room = room
        self._model = model
        self._same_model = False
        self._memories: list[tuple[Memory, Embedding | None]] = []
        self._relations: list[RelationLine] = []

    async def take(self, text: bytes) -> bool:
        """Read a line; whether something was written."""
        self.progress.lines += 1
        line = self._decode(text)
        match line:
            case Header():
                self._check_header(line)
            case TenantLine():
                await self.write()
                self._enter(line.tenant)
            case MemoryLine():
                if self._relations:
                    await self.write()
                self._memories.append(self._checked(line))
            case RelationLine():
                if self._memories:
                    await self.write()
                self._relations.append(line)
        if len(self._memories) + len(self._relations) < LINES_AT_ONCE:
            return False
        await self.write()
        return True

    async def write(self) -> None:
        memories, self._memories = self._memories, []
        relations, self._relations = self._relations, []
        if not memories and not relations:
            return
        if memories:
            records = await self._records(memories)
            ids = [record.memory.id for record in records]
            async with self._room(self._tenant, ids):
                outcomes = await self._store.load(self._tenant, records)
            for outcome in outcomes:
                setattr(self.progress, outcome, getattr(self.progress, outcome) + 1)
        if relations:
            loaded = [_relation_of(line) for line in relations]
            written = await self._store.load_relations(self._tenant, loaded)
            self.progress.relations += written
            self.progress.dropped += len(loaded) - written

    async def _records(self, read: Sequence[tuple[Memory, Embedding | None]]) -> list[Record]:
        missing = [memory for memory, embedding in read if embedding is None]
        made = iter(await self._embed(missing) if missing else ())
        self.progress.embedded += len(missing)
        return [
            Record(memory, next(made) if embedding is None else embedding)
            for memory, embedding in read
        ]

    def _checked(self, line: MemoryLine) -> tuple[Memory, Embedding | None]:
        memory = Memory(**{name: getattr(line, name) for name in Memory.__struct_fields__})
        try:
            memory = checked_memory(memory)
            if line.embedding is msgspec.UNSET or not self._same_model:
                return memory, None
            return memory, self._read_embedding(line.embedding)
        except InvalidInput as error:
            raise self._invalid(str(error)) from None

    def _read_embedding(self, data: bytes) -> Embedding:
        if len(data) % 4:
            raise InvalidInput(f"expected 4 bytes for each number of an embedding, got {len(data)}")
        embedding = np.frombuffer(data, "<f4").astype(np.float32, copy=False)
        checked: Embedding = checked_embeddings([embedding], self._model.dimensions)[0]
        return checked

    def _check_header(self, header: Header) -> None:
        if header.format != FORMAT:
            raise self._invalid(f"expected format {FORMAT}, got {header.format}")
        theirs = header.embedding_model
        self._same_model = (theirs.digest, theirs.dimensions) == (
            self._model.digest,
            self._model.dimensions,
        )

    def _enter(self, tenant: str) -> None:
        if tenant != self._tenant and not self._other_tenants:
            raise self._invalid(
                "this dump is of several tenants; load it with: python -m service load"
            )
        self._tenant = tenant

    def _decode(self, text: bytes) -> Line:
        try:
            return _DECODER.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._invalid(str(error)) from None

    def _invalid(self, message: str) -> InvalidInput:
        return InvalidInput(f"line {self.progress.lines}: {message}", parameter="line")


async def lines_of(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The lines of a stream of bytes.

    Raises:
        InvalidInput: a line is longer than any line of a dump.
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > MAX_LINE_BYTES:
            raise InvalidInput(f"expected lines of at most {MAX_LINE_BYTES:,} bytes")
    yield rest


def _memory_line(record: Record, embeddings: bool) -> bytes:
    fields = msgspec.structs.asdict(record.memory)
    data = record.embedding.astype("<f4", copy=False).tobytes() if embeddings else msgspec.UNSET
    return line_of(MemoryLine(**fields, embedding=data))


def _relation_of(line: RelationLine) -> Relation:
    return Relation(**msgspec.structs.asdict(line))


def line_of(line: Line) -> bytes:
    """A line of a dump, as it is written."""
    return msgspec.json.encode(line) + b"\n"
