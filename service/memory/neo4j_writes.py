"""What the writing calls of a store mean: what each does to a tenant's memories, as changes."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from neo4j import Record as Row

from service.errors import Conflict, IdempotencyKeyReused
from service.memory.model import (
    SUPERSEDES,
    Draft,
    Embedding,
    Memory,
    Receipt,
    Record,
    Relation,
    Remembered,
    changed_to,
    content_hash,
    in_place_of,
    is_forgotten,
    relations_of,
    to_microseconds,
)
from service.memory.neo4j_changes import Changes, write_relations
from service.memory.neo4j_client import Neo4jTransaction
from service.memory.neo4j_groups import Answer, RememberCall
from service.memory.neo4j_rows import RELATIONS
from service.memory.store import Loaded

FIND_RECEIPTS = """
UNWIND $keys AS key
MATCH (r:Receipt {tenant: $tenant, key: key})
RETURN r.key AS key, r.fingerprint AS fingerprint, r.results AS results
"""

_SAVE_RECEIPTS = """
UNWIND $rows AS row
CREATE (r:Receipt {tenant: $tenant})
SET r += row
"""

_THERE = """
UNWIND $ids AS id
MATCH (m:Memory {tenant: $tenant, id: id})
RETURN m.id AS id
"""

_UNRELATE = f"""
MATCH (:Memory {{tenant: $tenant, id: $source}})-[r:{RELATIONS}]->
      (:Memory {{tenant: $tenant, id: $target}})
WHERE $type IS NULL OR r.relation_type = $type
DELETE r
RETURN count(*) AS deleted
"""

# Only the two links; those that either had before are taken off.
_LOAD_SUPERSESSION = f"""
UNWIND $rows AS row
MATCH (newer:Memory {{tenant: $tenant, id: row.source}})
MATCH (older:Memory {{tenant: $tenant, id: row.target}})
OPTIONAL MATCH (newer)-[before:{SUPERSEDES}]->(was_older)
OPTIONAL MATCH (was_newer)-[after:{SUPERSEDES}]->(older)
DELETE before, after
REMOVE was_older.superseded_by, was_newer.supersedes
SET newer.supersedes = older.id, older.superseded_by = newer.id
CREATE (newer)-[:{SUPERSEDES} {{relation_type: '{SUPERSEDES}', weight: 1.0}}]->(older)
RETURN count(*) AS written
"""

_RESULTS = msgspec.json.Decoder(tuple[Remembered, ...])


async def remember(
    transaction: Neo4jTransaction, changes: Changes, tenant: str, calls: Sequence[RememberCall]
) -> list[Answer]:
    """Carry out calls, one after the other, and write what comes of them and their receipts."""
    keys = [call.receipt.key for call in calls if call.receipt]
    rows = await transaction.run(FIND_RECEIPTS, tenant=tenant, keys=keys) if keys else []
    receipts = {row["key"]: receipt_of(row) for row in rows}
    await _read_ahead(changes, calls)
    answers: list[Answer] = []
    kept = []
    for call in calls:
        there = receipts.get(call.receipt.key) if call.receipt else None
        if there is not None and call.receipt is not None:
            answers.append(_again(there, call.receipt))
            continue
        results = [await _remember(changes, draft, call.now) for draft in call.drafts]
        answers.append(results)
        if call.receipt is not None:
            receipt = msgspec.structs.replace(call.receipt, results=tuple(results))
            receipts[receipt.key] = receipt
            kept.append(_receipt_row(receipt, call.now))
    await changes.write()
    if kept:
        await transaction.run(_SAVE_RECEIPTS, tenant=tenant, rows=kept)
    return answers


async def _read_ahead(changes: Changes, calls: Sequence[RememberCall]) -> None:
    drafts = [draft for call in calls for draft in call.drafts]
    ids = [draft.memory.id for draft in drafts]
    ids += [draft.memory.supersedes for draft in drafts if draft.memory.supersedes]
    ids += [relation.target for draft in drafts for relation in draft.relations]
    await changes.find_with_neighbours(ids)
    hashes = {content_hash(draft.memory) for draft in drafts if not draft.own_id}
    await changes.find_content(list(hashes), now=min(call.now for call in calls))


async def _remember(changes: Changes, draft: Draft, now: datetime) -> Remembered:
    there = await _there(changes, draft.memory.id, now)
    if draft.own_id and there is not None:
        if not draft.replace and there.content != draft.memory.content:
            return Remembered(outcome="conflict", memory=there)
        if missing := await _missing_targets(changes, draft, now):
            return Remembered(outcome="missing_target", missing=missing)
        changes.relate(relations_of(draft, now))
        if not draft.replace:
            return Remembered(outcome="unchanged", memory=there)
        replaced = in_place_of(there, draft.memory)
        changes.put(replaced, draft.embedding)
        return Remembered(outcome="replaced", memory=replaced)
    if not draft.own_id and draft.memory.supersedes is None:
        same = _duplicate(changes, draft.memory, now) or there
        if same is not None:
            return Remembered(outcome="duplicate", memory=same)
    return await _create(changes, draft, now)


async def _create(changes: Changes, draft: Draft, now: datetime) -> Remembered:
    memory = draft.memory
    forgotten = [memory.id]
    if memory.supersedes is not None:
        older = await _there(changes, memory.supersedes, now)
        if older is None:
            return Remembered(outcome="missing_superseded", missing=(memory.supersedes,))
        successor = older.superseded_by
        while successor is not None:
            newer = await changes.memory(successor)
            if newer is None or not is_forgotten(newer, now):
                return Remembered(outcome="already_superseded", memory=newer)
            forgotten.append(newer.id)
            successor = newer.superseded_by
    if missing := await _missing_targets(changes, draft, now):
        return Remembered(outcome="missing_target", missing=missing)
    for id in forgotten:
        await changes.remove(id)
    if memory.supersedes is not None:
        older = await changes.memory(memory.supersedes)
        assert older is not None
        changes.put(
            msgspec.structs.replace(older, superseded_by=memory.id, valid_to=memory.valid_from)
        )
    changes.put(memory, draft.embedding)
    changes.relate(relations_of(draft, now))
    return Remembered(outcome="created", memory=memory)


def receipt_of(row: Row) -> Receipt:
    """The receipt that FIND_RECEIPTS has read."""
    return Receipt(
        key=row["key"], fingerprint=row["fingerprint"], results=_RESULTS.decode(row["results"])
    )


def _receipt_row(receipt: Receipt, now: datetime) -> dict[str, str | int]:
    return {
        "key": receipt.key,
        "fingerprint": receipt.fingerprint,
        "results": msgspec.json.encode(receipt.results).decode(),
        "created_at": to_microseconds(now),
    }


def _again(kept: Receipt, receipt: Receipt) -> Answer:
    if kept.fingerprint != receipt.fingerprint:
        return IdempotencyKeyReused(
            f"the idempotency key {receipt.key!r} was used for another request; use a new one"
        )
    return list(kept.results)


async def update(
    changes: Changes, memory: Memory, embedding: Embedding | None, *, expected_version: int
) -> Memory | None:
    """Plan to put the fields of a memory in the place of those it has.

    Raises:
        Conflict: its version is not the expected one.
    """
    there = await changes.memory(memory.id)
    if there is None:
        return None
    if there.version != expected_version:
        raise Conflict(
            f"expected version {expected_version} of memory {memory.id}, and it has "
            f"{there.version}; read it again"
        )
    updated = changed_to(there, memory)
    changes.put(updated, embedding)
    return updated


async def load(changes: Changes, records: Sequence[Record]) -> list[Loaded]:
    """Plan to write records as they are, but for their supersession; what becomes of each."""
    await changes.find(record.memory.id for record in records)
    outcomes: list[Loaded] = []
    for record in records:
        there = await changes.memory(record.memory.id)
        memory = msgspec.structs.replace(
            record.memory,
            supersedes=there.supersedes if there else None,
            superseded_by=there.superseded_by if there else None,
        )
        if there is None:
            outcomes.append("created")
        elif memory == there:
            outcomes.append("unchanged")
            continue
        elif (memory.version, memory.updated_at) < (there.version, there.updated_at):
            outcomes.append("kept")
            continue
        else:
            outcomes.append("replaced")
        changes.put(memory, record.embedding)
    return outcomes


async def load_relations(
    transaction: Neo4jTransaction, tenant: str, relations: Sequence[Relation]
) -> int:
    """Write relations and supersession as they are; how many had both memories there."""
    others = [relation for relation in relations if relation.relation_type != SUPERSEDES]
    written = await write_relations(transaction, tenant, others, keep_created_at=False)
    for relation in relations:
        if relation.relation_type == SUPERSEDES:
            row = {"source": relation.source, "target": relation.target}
            rows = await transaction.run(_LOAD_SUPERSESSION, tenant=tenant, rows=[row])
            written += min(1, rows[0]["written"])
    return written


async def relate(
    transaction: Neo4jTransaction, tenant: str, relations: Sequence[Relation]
) -> list[str]:
    """Write relations, or give the ids that are not there."""
    ids = dict.fromkeys(id for relation in relations for id in (relation.source, relation.target))
    rows = await transaction.run(_THERE, tenant=tenant, ids=list(ids))
    missing = list(ids.keys() - {row["id"] for row in rows})
    if missing:
        return [id for id in ids if id in missing]
    await write_relations(transaction, tenant, relations, keep_created_at=True)
    return []


async def unrelate(
    transaction: Neo4jTransaction,
    tenant: str,
    source: str,
    target: str,
    relation_type: str | None,
) -> int:
    """Delete the relations from source to target; gives how many."""
    rows = await transaction.run(
        _UNRELATE, tenant=tenant, source=source, target=target, type=relation_type
    )
    deleted: int = rows[0]["deleted"]
    return deleted


async def _there(changes: Changes, id: str, now: datetime) -> Memory | None:
    memory = await changes.memory(id)
    return None if memory is None or is_forgotten(memory, now) else memory


def _duplicate(changes: Changes, memory: Memory, now: datetime) -> Memory | None:
    """The newest current memory of the same content, of equals the first by id."""
    same = [
        other
        for other in changes.with_content(content_hash(memory))
        if other.superseded_by is None and not is_forgotten(other, now)
    ]
    return min(same, key=lambda other: (-to_microseconds(other.created_at), other.id), default=None)


async def _missing_targets(changes: Changes, draft: Draft, now: datetime) -> tuple[str, ...]:
    targets = dict.fromkeys(relation.target for relation in draft.relations)
    return tuple([id for id in targets if await _there(changes, id, now) is None])
