"""Memories in a Neo4j database, which several services may share."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from neo4j import AsyncGraphDatabase

from service.memory import neo4j_deletes as deletes
from service.memory import neo4j_reads as reads
from service.memory import neo4j_writes as writes
from service.memory.filters import Filter
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
from service.memory.neo4j_changes import Changes
from service.memory.neo4j_client import DRIVER_SETTINGS, Neo4jClient, Neo4jTransaction
from service.memory.neo4j_errors import translated_opening_errors
from service.memory.neo4j_groups import Answer, CallGroups, RememberCall
from service.memory.neo4j_locks import TenantLocks
from service.memory.neo4j_re_embedding import ReEmbedding
from service.memory.neo4j_schema import Server, find_server, open_schema
from service.memory.neo4j_search import search_embedding, search_words
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

Result = TypeVar("Result")


class Neo4jStore:
    """A MemoryStore on a Neo4j server; made by open_neo4j_store.

    Statements see what is committed when they run, so that a read that is one statement can, in
    principle, see another's write half applied; writers of a tenant wait for one another.
    """

    def __init__(
        self, client: Neo4jClient, server: Server, model: EmbeddingModel, *, address: str
    ) -> None:
        self._client = client
        self._server = server
        self._model = model
        self._address = address
        self._locks = TenantLocks(client, model)
        self._groups = CallGroups(self._carry_out)
        self._re_embedding = ReEmbedding(client, server)

    async def remember(
        self, tenant: str, drafts: Sequence[Draft], *, now: datetime, receipt: Receipt | None = None
    ) -> list[Remembered]:
        """See MemoryStore."""
        self._check([draft.embedding for draft in drafts])

        return await self._groups.remember(tenant, RememberCall(drafts, now, receipt))

    async def _carry_out(self, tenant: str, calls: Sequence[RememberCall]) -> list[Answer]:
        async def work(transaction: Neo4jTransaction) -> list[Answer]:
            return await writes.remember(
                transaction, self._changes(transaction, tenant), tenant, calls
            )

        return await self._locks.write(tenant, work)

    async def receipt(self, tenant: str, key: str) -> Receipt | None:
        """See MemoryStore."""
        rows = await self._client.run(writes.FIND_RECEIPTS, tenant=tenant, keys=[key])
        return writes.receipt_of(rows[0]) if rows else None

    async def update(
        self, tenant: str, memory: Memory, embedding: Embedding | None, *, expected_version: int
    ) -> Memory | None:
        """See MemoryStore."""
        if embedding is not None:
            self._check([embedding])

        async def plan(changes: Changes) -> Memory | None:
            return await writes.update(
                changes, memory, embedding, expected_version=expected_version
            )

        return await self._change(tenant, plan)

    async def delete(
        self, tenant: str, filter_: Filter, *, now: datetime, dry_run: bool = False
    ) -> Deleted:
        """See MemoryStore."""

        async def count(transaction: Neo4jTransaction) -> Deleted:
            deleted, _, _ = await deletes.count_deletion(transaction, tenant, filter_, now)
            return deleted

        async def work(transaction: Neo4jTransaction) -> tuple[Deleted, bool]:
            deleted, single, linked = await deletes.count_deletion(
                transaction, tenant, filter_, now
            )
            are_many = len(single) > deletes.DELETED_AT_ONCE
            if are_many:
                await deletes.forget(transaction, tenant, single)
            changes = self._changes(transaction, tenant)
            await deletes.delete(changes, [] if are_many else single, linked)
            await changes.write()
            return deleted, are_many

        if dry_run:
            return await self._client.write(count)
        deleted, remain = await self._locks.write(tenant, work)
        if remain:
            await self._purge(tenant, deletes.LEAST_TIME)
        return deleted

    async def purge(self, *, now: datetime, receipts_before: datetime) -> int:
        """See MemoryStore."""
        await self._client.run(
            "MATCH (r:Receipt) WHERE r.created_at < $before DELETE r",
            before=to_microseconds(receipts_before),
        )
        tenants = await reads.tenants(self._client)
        return sum([await self._purge(tenant, to_microseconds(now)) for tenant in tenants])

    async def get(self, selection: Selection, ids: Sequence[str]) -> list[Memory | None]:
        """See MemoryStore."""
        return await reads.get(self._client, selection, ids)

    async def page(
        self, selection: Selection, *, order: Order, after: Position | None, limit: int
    ) -> list[Memory]:
        """See MemoryStore."""
        return await reads.page(self._client, selection, order=order, after=after, limit=limit)

    async def count(self, selection: Selection) -> int:
        """See MemoryStore."""
        return await reads.count(self._client, selection)

    async def search_embedding(
        self, selection: Selection, embedding: Embedding, *, limit: int
    ) -> list[Match]:
        """See MemoryStore."""
        self._check([embedding])
        return await search_embedding(self._client, self._server, selection, embedding, limit=limit)

    async def search_words(
        self, selection: Selection, words: Sequence[str], *, limit: int
    ) -> list[WordMatch]:
        """See MemoryStore."""
        return await search_words(self._client, selection, words, limit=limit)

    async def embeddings(self, tenant: str, ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """See MemoryStore."""
        return await reads.embeddings(
            self._client,
            tenant,
            ids,
            dimensions=self._model.dimensions,
            vectors=self._server.vectors,
        )

    async def relate(self, tenant: str, relations: Sequence[Relation]) -> list[str]:
        """See MemoryStore."""

        async def work(transaction: Neo4jTransaction) -> list[str]:
            return await writes.relate(transaction, tenant, relations)

        return await self._locks.write(tenant, work)

    async def unrelate(
        self, tenant: str, source: str, target: str, relation_type: str | None
    ) -> int:
        """See MemoryStore."""

        async def work(transaction: Neo4jTransaction) -> int:
            return await writes.unrelate(transaction, tenant, source, target, relation_type)

        return await self._locks.write(tenant, work)

    async def relations(
        self, selection: Selection, ids: Sequence[str], *, relation_types: Sequence[str] | None
    ) -> list[Relation]:
        """See MemoryStore."""
        return await reads.relations(self._client, selection, ids, relation_types)

    async def history(self, selection: Selection, id: str) -> list[Memory]:
        """See MemoryStore."""
        return await reads.history(self._client, selection, id)

    async def tags(self, selection: Selection) -> list[Count]:
        """See MemoryStore."""
        return await reads.tags(self._client, selection)

    async def contexts(self, selection: Selection) -> list[Count]:
        """See MemoryStore."""
        return await reads.contexts(self._client, selection)

    async def stats(self, tenant: str, *, now: datetime) -> Stats:
        """See MemoryStore."""
        return await reads.stats(self._client, tenant, now=now)

    async def tenants(self) -> list[str]:
        """See MemoryStore."""
        return await reads.tenants(self._client)

    async def records(
        self, tenant: str, *, now: datetime, after: str | None, limit: int
    ) -> list[Record]:
        """See MemoryStore."""
        return await reads.records(
            self._client,
            tenant,
            now=now,
            after=after,
            limit=limit,
            vectors=self._server.vectors,
        )

    async def relations_after(
        self, tenant: str, after: tuple[str, str, str] | None, *, limit: int
    ) -> list[Relation]:
        """See MemoryStore."""
        return await reads.relations_after(self._client, tenant, after, limit=limit)

    async def load(self, tenant: str, records: Sequence[Record]) -> list[Loaded]:
        """See MemoryStore."""
        self._check([record.embedding for record in records])

        async def plan(changes: Changes) -> list[Loaded]:
            return await writes.load(changes, records)

        return await self._change(tenant, plan)

    async def load_relations(self, tenant: str, relations: Sequence[Relation]) -> int:
        """See MemoryStore."""

        async def work(transaction: Neo4jTransaction) -> int:
            return await writes.load_relations(transaction, tenant, relations)

        return await self._locks.write(tenant, work)

    async def replace_embeddings(
        self, tenant: str, ids: Sequence[str], embeddings: npt.NDArray[np.float32]
    ) -> None:
        """See MemoryStore."""
        await self._re_embedding.replace(tenant, ids, embeddings)

    async def start_re_embedding(self, model: EmbeddingModel) -> tuple[str, str] | None:
        """See MemoryStore."""
        return await self._re_embedding.start(model)

    async def finish_re_embedding(self) -> None:
        """See MemoryStore."""
        self._model = await self._re_embedding.finish()
        self._locks = TenantLocks(self._client, self._model)

    async def ping(self) -> None:
        """See MemoryStore."""
        await self._locks.check_writable()

    async def finish(self) -> None:
        """Return when every call of `remember` is answered."""
        await self._groups.finish()

    async def info(self) -> StoreInfo:
        """See MemoryStore."""
        found = "filtered in the index" if self._server.filters_in_index else "filtered after it"
        return StoreInfo(
            kind="neo4j",
            address=self._address,
            version=self._server.version,
            vector_search=f"HNSW, not quantized, {found}; exact up to 1,000 memories",
            embedding_model=self._model,
        )

    async def _purge(self, tenant: str, now: int) -> int:
        async def work(transaction: Neo4jTransaction) -> int:
            changes = self._changes(transaction, tenant)
            return await deletes.delete_forgotten(transaction, changes, tenant, now=now)

        purged = 0
        while await reads.has_forgotten(self._client, tenant, now=now):
            purged += await self._locks.write(tenant, work)
        return purged

    async def _change(self, tenant: str, plan: Callable[[Changes], Awaitable[Result]]) -> Result:
        async def work(transaction: Neo4jTransaction) -> Result:
            changes = self._changes(transaction, tenant)
            result = await plan(changes)
            await changes.write()
            return result

        return await self._locks.write(tenant, work)

    def _changes(self, transaction: Neo4jTransaction, tenant: str) -> Changes:
        return Changes(transaction, tenant, vectors=self._server.vectors)

    def _check(self, embeddings: Sequence[Embedding]) -> None:
        checked_embeddings(embeddings, self._model.dimensions)


@asynccontextmanager
async def open_neo4j_store(
    uri: str,
    model: EmbeddingModel | None,
    *,
    username: str | None,
    password: str | None,
    database: str,
    re_embedding: bool = False,
) -> AsyncIterator[Neo4jStore]:
    """The store in a database, for embeddings of a model; None takes the one that it has.

    `re_embedding` opens it for exchanging its embeddings: whichever model it has.

    Raises:
        StoreLoadError: the server cannot be reached or refuses the login, is too old, or has a
            store of a newer version, or none and no model is given.
        EmbeddingModelMismatch: the store has the embeddings of another model.
    """
    auth = None if username is None else (username, password or "")
    with translated_opening_errors(uri):
        driver = AsyncGraphDatabase.driver(uri, auth=auth, **DRIVER_SETTINGS)
    async with driver:
        client = Neo4jClient(driver, database)
        with translated_opening_errors(uri):
            server = await find_server(client)
            opened = await open_schema(client, server, model, re_embedding=re_embedding)
        store = Neo4jStore(client, server, opened, address=uri)
        try:
            yield store
        finally:
            await store.finish()
