"""The embedded store: memories in a SQLite database, searched exactly in memory.

Writes go through one thread (sqlite_writer), reads and searches through a few others. The database
is the only truth; what is in memory, and the file that it is kept in, can be made of it anew.
"""

import asyncio
import logging
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from service.errors import StoreLoadError, StoreUnavailable
from service.memory import sqlite_reads as reads
from service.memory import sqlite_transfer as transfer
from service.memory import sqlite_writes as writes
from service.memory.filters import Filter
from service.memory.matrix import Effects
from service.memory.matrix_snapshot import write_snapshot
from service.memory.model import (
    Count,
    Deleted,
    Draft,
    Embedding,
    Memory,
    Receipt,
    Record,
    Relation,
    Remembered,
    Stats,
    to_microseconds,
)
from service.memory.sqlite_deletes import count_deletable, delete, purge
from service.memory.sqlite_opening import (
    OpenedDatabase,
    locked,
    open_database,
    read_matrix,
    snapshot_of,
)
from service.memory.sqlite_reader import Reader
from service.memory.sqlite_relations import find_relations, relate, relations_behind, unrelate
from service.memory.sqlite_rows import tenant_number
from service.memory.sqlite_schema import keep_snapshot, read_meta, same_model
from service.memory.sqlite_search import count, search_embedding, search_words
from service.memory.sqlite_writer import Operation, Transaction, Writer
from service.memory.store import (
    EmbeddingModel,
    Loaded,
    Match,
    Order,
    Position,
    Selection,
    StoreInfo,
    checked_embeddings,
)
from service.memory.words import WordMatch

logger = logging.getLogger(__name__)

PREPARING_THREADS = 2

# Less than this is prepared at once, in half a millisecond: handing it to a thread and back takes
# as long, and halves how many single memories are written in a second.
CHARACTERS_AT_ONCE = 4_000

# The matrix is written to its file after this many changed rows, and this share of all rows: what
# is read again at the next start is never much, and what is written never much more than the data.
SNAPSHOT_ROWS = 50_000
SNAPSHOT_SHARE = 0.1

P = ParamSpec("P")
T = TypeVar("T")


@asynccontextmanager
async def open_sqlite_store(
    path: Path, model: EmbeddingModel | None, *, re_embedding: bool = False
) -> AsyncIterator["SqliteStore"]:
    """The store in the file at a path, which is made if there is none, for embeddings of a model.

    None takes the model that the store has. `re_embedding` opens the store for exchanging its
    embeddings: whichever model it has, and whether that has begun or not.

    Raises:
        StoreLoadError: it is in use, damaged, of a newer version, or new where there is no model.
        EmbeddingModelMismatch: it has the embeddings of another model.
    """
    started = time.perf_counter()
    if model is None and not path.exists():
        raise StoreLoadError(f"there is no store at {path}")
    with locked(path):
        opened = await asyncio.to_thread(open_database, path, model, re_embedding=re_embedding)
        logger.info(
            "opened %s with %d memories in %.2f s%s",
            path,
            opened.matrix.rows,
            time.perf_counter() - started,
            "" if opened.resumed else ", all read from the database",
        )
        store = SqliteStore(path, opened)
        store.start()
        try:
            yield store
        finally:
            await store.close()


class SqliteStore:
    """A MemoryStore in one file; made by open_sqlite_store."""

    def __init__(self, path: Path, opened: OpenedDatabase) -> None:
        self._path = path
        self._connection = opened.connection
        self._model = opened.model
        self._matrix = opened.matrix
        self._rows_kept = 0  # those of the matrix's changed rows that the snapshot has
        self._keeping: asyncio.Task[None] | None = None
        self._reader = Reader(path)
        self._preparing = ThreadPoolExecutor(PREPARING_THREADS, "sqlite-preparing")
        self._writer = Writer(opened.connection, self._publish)

    def start(self) -> None:
        """Begin to take calls."""
        self._writer.start()

    async def remember(
        self, tenant: str, drafts: Sequence[Draft], *, now: datetime, receipt: Receipt | None = None
    ) -> list[Remembered]:
        dimensions = self._model.dimensions
        operation = await self._prepared(
            [draft.memory for draft in drafts],
            lambda: writes.remember(tenant, drafts, dimensions, now, receipt),
        )
        return await self._write(operation, memories=len(drafts))

    async def receipt(self, tenant: str, key: str) -> Receipt | None:
        return await self._read(tenant, None, writes.find_receipt, key)

    async def update(
        self, tenant: str, memory: Memory, embedding: Embedding | None, *, expected_version: int
    ) -> Memory | None:
        dimensions = self._model.dimensions
        operation = await self._prepared(
            [memory], lambda: writes.update(tenant, memory, embedding, dimensions, expected_version)
        )
        return await self._write(operation)

    async def delete(
        self, tenant: str, filter_: Filter, *, now: datetime, dry_run: bool = False
    ) -> Deleted:
        time = to_microseconds(now)
        if not dry_run:
            return await self._write(delete(tenant, filter_, time))
        return await self._read(tenant, Deleted(0, 0), count_deletable, filter_, time)

    async def purge(self, *, now: datetime, receipts_before: datetime) -> int:
        return await self._write(purge(to_microseconds(now), to_microseconds(receipts_before)))

    async def get(self, selection: Selection, ids: Sequence[str]) -> list[Memory | None]:
        return await self._read(selection.tenant, [None] * len(ids), reads.get, selection, ids)

    async def page(
        self, selection: Selection, *, order: Order, after: Position | None, limit: int
    ) -> list[Memory]:
        return await self._read(selection.tenant, [], reads.page, selection, order, after, limit)

    async def count(self, selection: Selection) -> int:
        return await self._read_matrix(selection.tenant, 0, count, self._matrix, selection)

    async def search_embedding(
        self, selection: Selection, embedding: Embedding, *, limit: int
    ) -> list[Match]:
        (query,) = checked_embeddings([embedding], self._model.dimensions)
        return await self._read_matrix(
            selection.tenant, [], search_embedding, self._matrix, selection, query, limit
        )

    async def search_words(
        self, selection: Selection, words: Sequence[str], *, limit: int
    ) -> list[WordMatch]:
        return await self._read(selection.tenant, [], search_words, selection, words, limit)

    async def embeddings(self, tenant: str, ids: Sequence[str]) -> npt.NDArray[np.float32]:
        dimensions = self._model.dimensions
        return await self._read(
            tenant, np.zeros((len(ids), dimensions), np.float32), reads.embeddings, ids, dimensions
        )

    async def relate(self, tenant: str, relations: Sequence[Relation]) -> list[str]:
        return await self._write(relate(tenant, relations))

    async def unrelate(
        self, tenant: str, source: str, target: str, relation_type: str | None
    ) -> int:
        return await self._write(unrelate(tenant, source, target, relation_type))

    async def relations(
        self, selection: Selection, ids: Sequence[str], *, relation_types: Sequence[str] | None
    ) -> list[Relation]:
        return await self._read(
            selection.tenant, [], find_relations, selection, ids, relation_types
        )

    async def history(self, selection: Selection, id: str) -> list[Memory]:
        return await self._read(selection.tenant, [], reads.history, selection, id)

    async def tags(self, selection: Selection) -> list[Count]:
        return await self._read(selection.tenant, [], reads.tags, selection)

    async def contexts(self, selection: Selection) -> list[Count]:
        return await self._read(selection.tenant, [], reads.contexts, selection)

    async def stats(self, tenant: str, *, now: datetime) -> Stats:
        time = to_microseconds(now)
        return await self._read(tenant, reads.NO_STATS, reads.stats, time)

    async def tenants(self) -> list[str]:
        return await self._reader.read(reads.tenants)

    async def records(
        self, tenant: str, *, now: datetime, after: str | None, limit: int
    ) -> list[Record]:
        time = to_microseconds(now)
        return await self._read(tenant, [], reads.records, time, after, limit)

    async def relations_after(
        self, tenant: str, after: tuple[str, str, str] | None, *, limit: int
    ) -> list[Relation]:
        return await self._read(tenant, [], relations_behind, after, limit)

    async def load(self, tenant: str, records: Sequence[Record]) -> list[Loaded]:
        dimensions = self._model.dimensions
        operation = await self._prepared(
            [record.memory for record in records],
            lambda: transfer.load(tenant, records, dimensions),
        )
        return await self._write(operation, memories=len(records))

    async def load_relations(self, tenant: str, relations: Sequence[Relation]) -> int:
        return await self._write(transfer.load_relations(tenant, relations))

    async def replace_embeddings(
        self, tenant: str, ids: Sequence[str], embeddings: npt.NDArray[np.float32]
    ) -> None:
        operation = transfer.replace_embeddings(tenant, ids, embeddings)
        await self._write(operation, memories=len(ids))

    async def start_re_embedding(self, model: EmbeddingModel) -> tuple[str, str] | None:
        return await self._write(transfer.start_re_embedding(model))

    async def finish_re_embedding(self) -> None:
        self._model = await self._write(transfer.finish_re_embedding)
        self._matrix = await self._reader.read(
            lambda connection: read_matrix(connection, self._model)
        )
        self._rows_kept = 0

    async def ping(self) -> None:
        await self._write(self._check)

    async def info(self) -> StoreInfo:
        return StoreInfo(
            kind="sqlite",
            address=str(self._path),
            version=sqlite3.sqlite_version,
            vector_search="exact: a scan of 8-bit codes, the nearest compared in 32 bits",
            embedding_model=self._model,
        )

    async def close(self) -> None:
        """Finish what was begun, and keep the matrix for the next start."""
        try:
            if self._keeping:
                await self._keeping
            if self._matrix.rows_changed > self._rows_kept:
                await self._keep_matrix()
        finally:
            await self._writer.close()
            await self._reader.close()
            self._preparing.shutdown()
            self._connection.close()

    async def _prepared(
        self, memories: Sequence[Memory], prepare: Callable[[], Operation[T]]
    ) -> Operation[T]:
        if self._writer.closed:
            raise StoreUnavailable(self._writer.closed)
        if sum(len(memory.content) for memory in memories) <= CHARACTERS_AT_ONCE:
            return prepare()
        return await asyncio.get_running_loop().run_in_executor(self._preparing, prepare)

    async def _write(self, operation: Operation[T], *, memories: int = 1) -> T:
        result = await self._writer.write(operation, memories=memories)
        unkept = self._matrix.rows_changed - self._rows_kept
        if (
            unkept > SNAPSHOT_ROWS
            and not self._keeping
            and unkept > SNAPSHOT_SHARE * self._matrix.rows
        ):
            self._keeping = asyncio.create_task(self._keep_matrix())
        return result

    async def _read(
        self,
        tenant: str,
        nothing: T,
        operation: Callable[Concatenate[sqlite3.Connection, int, P], T],
        *given: P.args,
        **named: P.kwargs,
    ) -> T:
        """What the operation gives for the number of the tenant; `nothing` where it has none."""

        def read(connection: sqlite3.Connection) -> T:
            number = tenant_number(connection, tenant)
            return nothing if number is None else operation(connection, number, *given, **named)

        return await self._reader.read(read)

    async def _read_matrix(
        self,
        tenant: str,
        nothing: T,
        operation: Callable[Concatenate[sqlite3.Connection, int, P], T | None],
        *given: P.args,
        **named: P.kwargs,
    ) -> T:
        # None says that more was published between the database's state and the matrix's.
        empty: T | None = nothing
        while (found := await self._read(tenant, empty, operation, *given, **named)) is None:
            pass
        return found

    def _publish(self, change: int, effects: Effects) -> None:
        self._matrix.publish(change, effects)

    def _check(self, transaction: Transaction) -> None:
        model = read_meta(transaction.connection, "model", EmbeddingModel)
        if model is None or not same_model(model, self._model) or not self._path.exists():
            raise StoreUnavailable(f"{self._path} is not the store any more that was opened")

    async def _keep_matrix(self) -> None:
        token, rows = uuid.uuid4().hex, self._matrix.rows_changed
        try:
            change = await asyncio.to_thread(
                write_snapshot, snapshot_of(self._path), token, self._matrix
            )
            await self._writer.write(
                lambda transaction: keep_snapshot(transaction.connection, token, change)
            )
            self._rows_kept = rows
        except (OSError, StoreUnavailable) as error:
            logger.warning("the matrix was not kept, and the next start takes longer: %s", error)
        finally:
            self._keeping = None
