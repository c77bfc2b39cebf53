"""Deleting memories: those that pass a filter, and those that are forgotten."""

from collections.abc import Sequence
from datetime import UTC, datetime

from neo4j import Record as Row

from service.memory.filters import Filter
from service.memory.model import Deleted, to_microseconds
from service.memory.neo4j_changes import Changes, batches
from service.memory.neo4j_client import Neo4jTransaction
from service.memory.neo4j_filters import filter_predicate
from service.memory.neo4j_rows import RELATIONS

# A transaction keeps what it deletes on the server's heap until its end, more than 20 kB for a
# memory with an embedding of 768 numbers. What is more is hidden in one transaction, and deleted
# in many.
DELETED_AT_ONCE = 1_000

# When what is hidden was forgotten.
LEAST_TIME = to_microseconds(datetime.min.replace(tzinfo=UTC))

_COUNT_RELATIONS = f"""
UNWIND $ids AS id
MATCH (m:Memory {{tenant: $tenant, id: id}})-[r:{RELATIONS}]-(o:Memory)
WHERE o.expires_at > $now
RETURN count(DISTINCT r) AS relations
"""

_FORGET = """
UNWIND $ids AS id
MATCH (m:Memory {tenant: $tenant, id: id})
SET m.expires_at = $time
"""

_LINKED = "m.id AS id, m.supersedes IS NOT NULL OR m.superseded_by IS NOT NULL AS linked"


async def count_deletion(
    transaction: Neo4jTransaction, tenant: str, filter_: Filter, now: datetime
) -> tuple[Deleted, list[str], list[str]]:
    """How much a deletion deletes, and the ids: of memories without supersession, and with it."""
    predicate = filter_predicate(tenant, filter_)
    rows = await transaction.run(
        f"MATCH (m:Memory) WHERE {predicate.text} "
        f"RETURN {_LINKED}, m.expires_at > $now AS is_there",
        **predicate.parameters,
        now=to_microseconds(now),
    )
    counted = [row["id"] for row in rows if row["is_there"]]
    found = await transaction.run(
        _COUNT_RELATIONS, tenant=tenant, ids=counted, now=to_microseconds(now)
    )
    return Deleted(len(counted), found[0]["relations"]), *_by_links(rows)


async def delete(changes: Changes, single: Sequence[str], linked: Sequence[str]) -> None:
    """Plan to delete the memories without supersession and those with it."""
    changes.remove_single(single)
    for some in batches(linked):
        await changes.find_with_neighbours(some)
    for id in linked:
        await changes.remove(id)


async def forget(transaction: Neo4jTransaction, tenant: str, ids: Sequence[str]) -> None:
    """Let memories be forgotten whatever the time, for delete_forgotten to find them."""
    await transaction.run(_FORGET, tenant=tenant, ids=ids, time=LEAST_TIME)


async def delete_forgotten(
    transaction: Neo4jTransaction, changes: Changes, tenant: str, *, now: int
) -> int:
    """Delete the next DELETED_AT_ONCE memories that are forgotten now; gives how many there were.

    `now` is in microseconds.
    """
    rows = await transaction.run(
        f"MATCH (m:Memory) WHERE m.tenant = $tenant AND m.expires_at <= $now RETURN {_LINKED} "
        "LIMIT $limit",
        tenant=tenant,
        now=now,
        limit=DELETED_AT_ONCE,
    )
    await delete(changes, *_by_links(rows))
    await changes.write()
    return len(rows)


def _by_links(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    return (
        [row["id"] for row in rows if not row["linked"]],
        [row["id"] for row in rows if row["linked"]],
    )
