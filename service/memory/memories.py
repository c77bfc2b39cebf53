"""The use cases of single memories: remember, read, change, supersede and forget."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from service.audit import audit
from service.embedding.embedder import Embedder
from service.embedding.manifest import Manifest
from service.embedding.prompts import document_text, prompt_for_input_type
from service.errors import (
    Conflict,
    InvalidInput,
    MemoryNotFound,
    RelationNotFound,
)
from service.memory.filters import EVERYTHING, Filter, TextIn
from service.memory.model import (
    Deleted,
    Draft,
    Embedding,
    Memory,
    Receipt,
    Relation,
    Remembered,
    new_id,
    to_microseconds,
)
from service.memory.new_memory import (
    Changes,
    NewMemory,
    RelateRequest,
    Successor,
    begin_memory,
    change_memory,
    check_relation,
    new_relations,
    succeed_memory,
)
from service.memory.room import MemoryAccount, room_for
from service.memory.store import EmbeddingModel, MemoryStore, Order, Position, Selection

# As long as clients repeat a request that they have had no answer to.
RECEIPTS_KEPT = timedelta(hours=24)

# A change that meets another change of the same memory is tried again on what that one left.
CHANGE_ATTEMPTS = 5

MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a new memory, and whether its embedding is of its beginning only."""

    remembered: Remembered
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class RequestKey:
    """The idempotency key of a request, and the digest of what it asks for."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some memories in order, and where to go on, if there are more."""

    memories: list[Memory]
    next: Position | None


class Memories:
    """Remembers texts by their meaning, with one model and one store."""

    def __init__(
        self,
        store: MemoryStore,
        embedder: Embedder,
        *,
        relevance_cutoff: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.store = store
        self.embedder = embedder
        self.relevance_cutoff = relevance_cutoff
        self.clock = clock
        self._by = "the service"
        self._max_memories: int | None = None
        self._arriving: Counter[str] = Counter()

    def on_account(self, account: MemoryAccount, *, by: str) -> "Memories":
        """These memories, as one uses them who pays for tokens and may have so many.

        `by` is who that is, for the audit log.
        """
        limited = copy(self)
        limited.embedder = self.embedder.on_account(account)
        limited._max_memories = account.max_memories
        limited._by = by
        return limited

    async def remember(
        self, tenant: str, given: Sequence[NewMemory], request: RequestKey | None = None
    ) -> tuple[list[Kept], bool]:
        """Keep new memories in one transaction; what became of each, in order.

        The second value says whether this is the answer to an earlier request of the same key.

        Raises:
            InvalidInput: a field, or a text, is not valid; nothing was written.
            IdempotencyKeyReused: the key was used for another request.
            MemoryLimitReached: there may not be so many memories.
        """
        if request and (kept := await self._kept_results(tenant, request)):
            return [Kept(result) for result in kept], True
        now = self.clock()
        begun = [begin_memory(new, id=new_id(now), now=now) for new in given]
        _check_ids([new.id for new in given if new.id])
        relations = [
            new_relations(new.relations, memory.id)
            for new, memory in zip(given, begun, strict=True)
        ]
        embeddings, truncated = await self._embed(begun, [new.truncate for new in given])
        drafts = [
            Draft(
                memory=memory,
                embedding=embedding,
                relations=related,
                own_id=new.id is not None,
                replace=new.on_conflict == "replace",
            )
            for new, memory, embedding, related in zip(
                given, begun, embeddings, relations, strict=True
            )
        ]
        results = await self._write(tenant, drafts, now, request)
        return [
            Kept(result, index in truncated and result.outcome in ("created", "replaced"))
            for index, result in enumerate(results)
        ], False

    async def supersede(
        self, tenant: str, id: str, given: Successor, request: RequestKey | None = None
    ) -> tuple[Kept, bool]:
        """Keep a memory that takes the place of another one, which stays as history.

        Raises:
            MemoryNotFound: there is no such memory.
            InvalidInput: a field, or the text, is not valid.
            Conflict: the id of its own is that of a memory that does not supersede this one.
            IdempotencyKeyReused: the key was used for another request.
            MemoryLimitReached: there may not be one more memory.
        """
        if request and (kept := await self._kept_results(tenant, request)):
            return Kept(kept[0]), True
        now = self.clock()
        old = await self.get(tenant, id)
        memory = succeed_memory(old, given, id=new_id(now), now=now)
        (embedding,), truncated = await self._embed([memory], [given.truncate])
        draft = Draft(
            memory=memory,
            embedding=embedding,
            relations=new_relations(given.relations, memory.id),
            own_id=given.id is not None,
        )
        (result,) = await self._write(tenant, [draft], now, request)
        there = result.memory
        if result.outcome == "unchanged" and there is not None and there.supersedes != id:
            raise Conflict(
                f"the memory {there.id!r} is there already and does not supersede {id!r}; send "
                "another id, or none"
            )
        return Kept(result, bool(truncated)), False

    async def get(self, tenant: str, id: str, as_of: datetime | None = None) -> Memory:
        """The memory of this id, superseded or not; or as it stood at a time.

        Raises:
            MemoryNotFound: there is none, or it was not valid then.
        """
        (memory,) = await self.store.get(self.select(tenant, as_of=as_of, ever=True), [id])
        if memory is None:
            raise MemoryNotFound(
                f"there is no memory {id!r}" + (f" as of {as_of.isoformat()}" if as_of else "")
            )
        return memory

    async def history(self, tenant: str, id: str, as_of: datetime | None = None) -> list[Memory]:
        """The memories that superseded one another, of which this is one, oldest first.

        With `as_of` those that were valid by then, superseded since or not.

        Raises:
            MemoryNotFound: there is no such memory.
        """
        chain = await self.store.history(self.select(tenant, ever=True), id)
        known = [memory for memory in chain if as_of is None or memory.valid_from <= as_of]
        if not known:
            raise MemoryNotFound(f"there is no memory {id!r}")
        return known

    async def change(self, tenant: str, id: str, given: Changes) -> Memory:
        """Change some fields of a memory.

        Raises:
            MemoryNotFound: there is none.
            InvalidInput: a field, or the text, is not valid.
            Conflict: others change it all the time.
        """
        for attempt in range(CHANGE_ATTEMPTS):
            old = await self.get(tenant, id)
            memory = change_memory(old, given, now=self.clock())
            embedding = None
            if (memory.content, memory.title) != (old.content, old.title):
                (embedding,), _ = await self._embed([memory], [given.truncate])
            try:
                changed = await self.store.update(
                    tenant, memory, embedding, expected_version=old.version
                )
            except Conflict:
                if attempt == CHANGE_ATTEMPTS - 1:
                    raise
                continue
            if changed is not None:
                return changed
        raise MemoryNotFound(f"there is no memory {id!r}")

    async def forget(self, tenant: str, id: str) -> Deleted:
        """Delete a memory.

        Raises:
            MemoryNotFound: there is none.
        """
        deleted = await self.delete(tenant, TextIn("id", (id,)))
        if not deleted.memories:
            raise MemoryNotFound(f"there is no memory {id!r}")
        return deleted

    async def delete(self, tenant: str, filter_: Filter, *, dry_run: bool = False) -> Deleted:
        """Delete all memories that pass the filter, history included."""
        deleted = await self.store.delete(tenant, filter_, now=self.clock(), dry_run=dry_run)
        if not dry_run:
            what = f"memories with {filter_}"
            audit("delete", by=self._by, tenant=tenant, what=what, count=deleted.memories)
        return deleted

    async def relate(self, tenant: str, given: Sequence[RelateRequest]) -> list[Relation]:
        """Make relations in one transaction; those that are there get the new weights.

        Raises:
            InvalidInput: one leads from a memory to itself, or is what superseding makes.
            MemoryNotFound: a memory at one of the ends is not there; no relation was made.
        """
        for new in given:
            check_relation(new.source, new.target, new.relation_type)
        now = self.clock()
        relations = [
            # A microsecond apart, which keeps them in the order in which they were given.
            Relation(**msgspec.structs.asdict(new), created_at=now + index * MICROSECOND)
            for index, new in enumerate(given)
        ]
        if missing := await self.store.relate(tenant, relations):
            raise MemoryNotFound(f"there is no memory {' and no memory '.join(map(repr, missing))}")
        return relations

    async def unrelate(
        self, tenant: str, source: str, target: str, relation_type: str | None = None
    ) -> int:
        """Delete the relations from one memory to another, of one type or of all; how many.

        Raises:
            RelationNotFound: there is none.
        """
        relations = await self.store.unrelate(tenant, source, target, relation_type)
        if not relations:
            of_type = f" of type {relation_type!r}" if relation_type else ""
            raise RelationNotFound(f"there is no relation{of_type} from {source!r} to {target!r}")
        what = f"relations from {source!r} to {target!r}"
        audit("delete", by=self._by, tenant=tenant, what=what, count=relations)
        return relations

    async def page(
        self, selection: Selection, *, order: Order, after: Position | None, limit: int
    ) -> Page:
        """Selected memories in this order, from the beginning or behind a position."""
        memories = await self.store.page(selection, order=order, after=after, limit=limit + 1)
        if len(memories) <= limit:
            return Page(memories, None)
        return Page(memories[:limit], position_of(memories[limit - 1], order))

    def select(
        self,
        tenant: str,
        filter_: Filter = EVERYTHING,
        *,
        as_of: datetime | None = None,
        ever: bool = False,
    ) -> Selection:
        """The memories that pass the filter, as of a time; not set: as of now, or `ever`."""
        now = self.clock()
        return Selection(
            tenant=tenant, now=now, as_of=as_of or (None if ever else now), filter=filter_
        )

    async def embed_for_load(self, memories: Sequence[Memory]) -> Sequence[Embedding]:
        """The embeddings of memories that were accepted before, cut to the model's limit."""
        embeddings, _ = await self._embed(memories, [True] * len(memories))
        return embeddings

    def room(self, tenant: str, ids: Sequence[str]) -> AbstractAsyncContextManager[None]:
        """While memories of these ids are written: holds that there are not too many.

        Raises:
            MemoryLimitReached: when it is entered; the new ones of them would be too many.
        """
        selection = self.select(tenant, ever=True)
        return room_for(
            ids, selection, self.store, limit=self._max_memories, arriving=self._arriving
        )

    async def purge(self) -> int:
        """Delete what is forgotten by now; how many memories."""
        now = self.clock()
        return await self.store.purge(now=now, receipts_before=now - RECEIPTS_KEPT)

    async def _kept_results(
        self, tenant: str, request: RequestKey
    ) -> tuple[Remembered, ...] | None:
        # Only spares the embedding: `remember` looks again, in its transaction.
        receipt = await self.store.receipt(tenant, request.key)
        if receipt is None or receipt.fingerprint != request.fingerprint:
            return None
        return receipt.results

    async def _write(
        self, tenant: str, drafts: Sequence[Draft], now: datetime, request: RequestKey | None
    ) -> list[Remembered]:
        receipt = None
        if request:
            receipt = Receipt(key=request.key, fingerprint=request.fingerprint, results=())
        async with self.room(tenant, [draft.memory.id for draft in drafts]):
            return await self.store.remember(tenant, drafts, now=now, receipt=receipt)

    async def _embed(
        self, memories: Sequence[Memory], truncate: Sequence[bool]
    ) -> tuple[list[Embedding], set[int]]:
        if not memories:
            return [], set()
        manifest = self.embedder.manifest
        texts = [document_text(manifest, memory.title, memory.content) for memory in memories]
        embedded = await self.embedder.embed(texts, prompt="", truncate=any(truncate))
        for index in embedded.truncated:
            if not truncate[index]:
                raise InvalidInput(
                    f"memory {index} has more tokens than the {manifest.max_tokens:,} that the "
                    "model reads; split it, or set truncate to true",
                    parameter="content",
                )
        return list(embedded.embeddings), set(embedded.truncated)


def embedding_model_of(manifest: Manifest) -> EmbeddingModel:
    """The model whose embeddings a store is filled with when this bundle is served."""
    prompt = prompt_for_input_type(manifest, "document")
    digest = hashlib.sha256(f"{manifest.source.sha256}\n{prompt}".encode()).hexdigest()
    return EmbeddingModel(manifest.name, digest, manifest.dimensions)


def position_of(memory: Memory, order: Order) -> Position:
    """Where a memory stands in a list of this order."""
    value = getattr(memory, order.field)
    return Position(to_microseconds(value) if isinstance(value, datetime) else value, memory.id)


def fingerprint(action: str, request: msgspec.Struct) -> str:
    """The digest of what a request asks for."""
    return hashlib.sha256(action.encode() + b"\n" + msgspec.json.encode(request)).hexdigest()


def _check_ids(ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        twice = next(id for index, id in enumerate(ids) if id in ids[:index])
        raise InvalidInput(f"expected different ids, got {twice!r} twice", parameter="id")
