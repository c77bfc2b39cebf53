"""What the embedded store does to remember, change and relate memories, in a transaction."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime

import msgspec

from service.errors import Conflict, IdempotencyKeyReused
from service.memory.model import (
    Draft,
    Embedding,
    Memory,
    NewRelation,
    Receipt,
    Remembered,
    changed_to,
    content_hash,
    in_place_of,
    is_forgotten,
    relations_of,
    to_microseconds,
)
from service.memory.sqlite_deletes import forget
from service.memory.sqlite_filters import unforgotten
from service.memory.sqlite_relations import write_relations
from service.memory.sqlite_rows import (
    MEMORY_COLUMNS,
    Prepared,
    Stored,
    find,
    insert,
    link,
    memory_of,
    own_tenant_number,
    prepare,
    prepare_embeddings,
    rewrite,
    tenant_number,
)
from service.memory.sqlite_writer import Operation, Transaction

_DECODE_RESULTS = msgspec.json.Decoder(tuple[Remembered, ...]).decode


def remember(
    tenant: str, drafts: Sequence[Draft], dimensions: int, now: datetime, receipt: Receipt | None
) -> Operation[list[Remembered]]:
    """Drafts made ready, and what writes them.

    Raises:
        InvalidInput: an embedding is not fit to be kept.
    """
    embeddings = prepare_embeddings([draft.embedding for draft in drafts], dimensions)
    prepared = [
        prepare(draft.memory, embedding)
        for draft, embedding in zip(drafts, embeddings, strict=True)
    ]

    def operation(transaction: Transaction) -> list[Remembered]:
        number = own_tenant_number(transaction.connection, tenant)
        if receipt and (kept := find_receipt(transaction.connection, number, receipt.key)):
            if kept.fingerprint != receipt.fingerprint:
                raise IdempotencyKeyReused(
                    f"the idempotency key {receipt.key!r} was used for another request; "
                    "use a new one"
                )
            return list(kept.results)
        writing = _Remembering(transaction, number, now)
        results = [
            writing.take(draft, ready) for draft, ready in zip(drafts, prepared, strict=True)
        ]
        if receipt:
            transaction.connection.execute(
                "INSERT INTO receipt VALUES (?, ?, ?, ?, ?)",
                (
                    number,
                    receipt.key,
                    receipt.fingerprint,
                    msgspec.json.encode(results),
                    to_microseconds(now),
                ),
            )
        return results

    return operation


def find_receipt(connection: sqlite3.Connection, tenant: int, key: str) -> Receipt | None:
    """The receipt that is kept under a key."""
    row = connection.execute(
        "SELECT fingerprint, results FROM receipt WHERE tenant = ? AND key = ?", (tenant, key)
    ).fetchone()
    return Receipt(key=key, fingerprint=row[0], results=_DECODE_RESULTS(row[1])) if row else None


class _Remembering:
    """One call of `remember`: what it decides, draft by draft."""

    def __init__(self, transaction: Transaction, tenant: int, now: datetime) -> None:
        self._transaction = transaction
        self._connection = transaction.connection
        self._tenant = tenant
        self._now = now

    def take(self, draft: Draft, prepared: Prepared) -> Remembered:
        memory = draft.memory
        if draft.own_id:
            if there := self._unforgotten(memory.id):
                return self._meet(draft, prepared, there)
        elif not memory.supersedes and (twin := self._newest_twin(prepared.content_hash)):
            return Remembered(outcome="duplicate", memory=twin)
        superseded = None
        if memory.supersedes:
            superseded = self._unforgotten(memory.supersedes)
            if not superseded:
                return Remembered(outcome="missing_superseded", missing=(memory.supersedes,))
            if successor := self._successor(superseded.memory):
                return Remembered(outcome="already_superseded", memory=successor)
        if missing := self._missing_targets(draft.relations):
            return Remembered(outcome="missing_target", missing=missing)
        if draft.own_id:
            self._clear(memory.id)
        insert(self._transaction, self._tenant, prepared)
        if superseded:
            self._close(superseded.memory.id, memory)
        write_relations(self._connection, self._tenant, relations_of(draft, self._now))
        return Remembered(outcome="created", memory=memory)

    def _meet(self, draft: Draft, prepared: Prepared, there: Stored) -> Remembered:
        if not draft.replace and there.memory.content != draft.memory.content:
            return Remembered(outcome="conflict", memory=there.memory)
        if missing := self._missing_targets(draft.relations):
            return Remembered(outcome="missing_target", missing=missing)
        memory = there.memory
        if draft.replace:
            memory = in_place_of(there.memory, draft.memory)
            rewrite(self._transaction, self._tenant, there.n, prepared._replace(memory=memory))
        write_relations(self._connection, self._tenant, relations_of(draft, self._now))
        return Remembered(outcome="replaced" if draft.replace else "unchanged", memory=memory)

    def _unforgotten(self, id: str) -> Stored | None:
        found = find(self._connection, self._tenant, id)
        return None if found and is_forgotten(found.memory, self._now) else found

    def _successor(self, memory: Memory) -> Memory | None:
        while memory.superseded_by:
            successor = find(self._connection, self._tenant, memory.superseded_by)
            assert successor is not None
            memory = successor.memory
            if not is_forgotten(memory, self._now):
                return memory
        return None

    def _newest_twin(self, hashed: bytes) -> Memory | None:
        alive = unforgotten(to_microseconds(self._now))
        # Left to itself SQLite reads all memories by time to find the newest.
        row = self._connection.execute(
            f"SELECT {MEMORY_COLUMNS} FROM memory m INDEXED BY memory_content "
            "CROSS JOIN text t ON t.n = m.n WHERE m.tenant = ? AND m.content_hash = ? "
            f"AND m.superseded_by IS NULL AND {alive.sql} "
            "ORDER BY m.created_at DESC, m.id LIMIT 1",
            (self._tenant, hashed, *alive.parameters),
        ).fetchone()
        return memory_of(row) if row else None

    def _missing_targets(self, relations: Sequence[NewRelation]) -> tuple[str, ...]:
        targets = dict.fromkeys(relation.target for relation in relations)
        return tuple(target for target in targets if not self._unforgotten(target))

    def _clear(self, id: str) -> None:
        """Take what is forgotten out of the way of a memory that gets its id."""
        if there := find(self._connection, self._tenant, id):
            forget(self._transaction, self._tenant, [there.n])

    def _close(self, id: str, successor: Memory) -> None:
        superseded = find(self._connection, self._tenant, id)
        while superseded and superseded.memory.superseded_by:
            self._clear(superseded.memory.superseded_by)
            superseded = find(self._connection, self._tenant, id)
        assert superseded is not None
        closed = msgspec.structs.replace(
            superseded.memory, superseded_by=successor.id, valid_to=successor.valid_from
        )
        link(self._transaction, self._tenant, superseded.n, closed)


def update(
    tenant: str,
    memory: Memory,
    embedding: Embedding | None,
    dimensions: int,
    expected_version: int,
) -> Operation[Memory | None]:
    """What puts the fields of a memory in the place of those it has.

    Raises:
        InvalidInput: the embedding is not fit to be kept.
    """
    ready = prepare_embeddings([embedding], dimensions)[0] if embedding is not None else None
    prepared = prepare(memory, ready)

    def operation(transaction: Transaction) -> Memory | None:
        number = tenant_number(transaction.connection, tenant)
        there = None if number is None else find(transaction.connection, number, memory.id)
        if number is None or there is None:
            return None
        if there.memory.version != expected_version:
            raise Conflict(
                f"memory {memory.id} is of version {there.memory.version}, expected "
                f"{expected_version}; read it again and repeat the change"
            )
        updated = changed_to(there.memory, memory)
        rewrite(
            transaction,
            number,
            there.n,
            prepared._replace(memory=updated, content_hash=bytes.fromhex(content_hash(updated))),
        )
        return updated

    return operation
