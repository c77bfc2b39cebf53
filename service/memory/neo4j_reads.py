"""What a Neo4j store reads, each in one statement where what it reads must belong together."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from neo4j import Record as Row
from neo4j.vector import Vector

from service.memory.filters import EVERYTHING
from service.memory.model import (
    SUPERSEDES,
    Count,
    Memory,
    Record,
    Relation,
    Stats,
    to_microseconds,
)
from service.memory.neo4j_client import Neo4jClient
from service.memory.neo4j_filters import selection_predicate
from service.memory.neo4j_rows import (
    MEMORY,
    RELATIONS,
    RELATIONS_AND_SUPERSESSION,
    memory_of,
    relation_of,
    sort_key,
)
from service.memory.store import Order, Position, Selection

_LEAST_TIME = to_microseconds(datetime.min.replace(tzinfo=UTC))

_RELATION = (
    "source.id AS source, r.relation_type AS relation_type, target.id AS target, "
    "r.weight AS weight, r.created_at AS created_at"
)

_HISTORY = f"""
MATCH (this:Memory {{tenant: $tenant, id: $id}})
WHERE this.expires_at > $now
MATCH (this)-[:{SUPERSEDES}*0..]-(m)
WITH DISTINCT m
RETURN m.id AS id, m.supersedes AS supersedes, m.superseded_by AS superseded_by,
       CASE WHEN coalesce(PREDICATE, false) THEN {MEMORY} END AS memory
"""

_STATS = f"""
OPTIONAL MATCH (m:Memory {{tenant: $tenant}})
WHERE m.expires_at > $now
WITH count(m) AS memories,
     count(CASE WHEN m.valid_from <= $now AND m.valid_to > $now THEN 1 END) AS current,
     count(DISTINCT m.context) AS contexts, count(DISTINCT m.user_id) AS users,
     count(DISTINCT m.agent_id) AS agents, count(DISTINCT m.session_id) AS sessions
RETURN memories, current, contexts, users, agents, sessions,
       COUNT {{
         MATCH (t:Tag {{tenant: $tenant}})
         WHERE EXISTS {{ MATCH (t)<-[:TAGGED]-(o) WHERE o.expires_at > $now }}
       }} AS tags,
       COUNT {{
         MATCH (o:Memory {{tenant: $tenant}})-[:{RELATIONS}]->(other)
         WHERE o.expires_at > $now AND other.expires_at > $now
       }} AS relations
"""

_TENANTS = """
MATCH (t:Tenant)
WHERE EXISTS { MATCH (m:Memory) WHERE m.tenant = t.name AND m.expires_at IS NOT NULL }
RETURN t.name AS name
"""


async def get(client: Neo4jClient, selection: Selection, ids: Sequence[str]) -> list[Memory | None]:
    """The selected memory of each id, in order."""
    predicate = selection_predicate(selection)
    rows = await client.run(
        "UNWIND $ids AS wanted MATCH (m:Memory {tenant: $tenant, id: wanted}) "
        f"WHERE {predicate.text} RETURN {MEMORY} AS memory",
        **predicate.parameters,
        tenant=selection.tenant,
        ids=list(dict.fromkeys(ids)),
    )
    found = {row["memory"]["id"]: memory_of(row["memory"]) for row in rows}
    return [found.get(id) for id in ids]


async def page(
    client: Neo4jClient,
    selection: Selection,
    *,
    order: Order,
    after: Position | None,
    limit: int,
) -> list[Memory]:
    """The first selected memories in this order, or those behind a position."""
    predicate = selection_predicate(selection)
    parameters: dict[str, Any] = {**predicate.parameters, "limit": limit}
    field, direction = f"m.{order.field}", "DESC" if order.descending else "ASC"
    behind = ""
    if after is not None:
        side = "<" if order.descending else ">"
        # The first condition says nothing new, but an index can be asked for it.
        behind = (
            f"AND {field} {side}= $value "
            f"AND ({field} {side} $value OR ({field} = $value "
            f"AND coalesce(m.sort_key, m.id) {side} $key))"
        )
        parameters |= {"value": after.value, "key": sort_key(after.id) or after.id}
    hint = ""
    if order.field == "created_at" and selection.filter == EVERYTHING:
        # Read in its order, of which the tenant is the first part, and only as far as needed.
        hint = "USING INDEX m:Memory(tenant, created_at)"
        behind += f" AND m.created_at >= {_LEAST_TIME}"
    rows = await client.run(
        f"MATCH (m:Memory) {hint} WHERE {predicate.text} {behind} WITH m "
        f"ORDER BY m.tenant {direction}, {field} {direction}, m.id {direction} LIMIT $limit "
        f"RETURN {MEMORY} AS memory",
        **parameters,
    )
    return [memory_of(row["memory"]) for row in rows]


async def count(client: Neo4jClient, selection: Selection) -> int:
    """How many memories are selected."""
    predicate = selection_predicate(selection)
    rows = await client.run(
        f"MATCH (m:Memory) WHERE {predicate.text} RETURN count(m) AS memories",
        **predicate.parameters,
    )
    memories: int = rows[0]["memories"]
    return memories


async def has_forgotten(client: Neo4jClient, tenant: str, *, now: int) -> bool:
    """Whether the tenant has memories that are forgotten now, in microseconds."""
    rows = await client.run(
        "MATCH (m:Memory) WHERE m.tenant = $tenant AND m.expires_at <= $now RETURN 1 LIMIT 1",
        tenant=tenant,
        now=now,
    )
    return bool(rows)


async def embeddings(
    client: Neo4jClient, tenant: str, ids: Sequence[str], *, dimensions: int, vectors: bool
) -> npt.NDArray[np.float32]:
    """The embeddings of memories, in order, zeros where there is none: (ids, dimensions)."""
    rows = await client.run(
        f"{'CYPHER 25 ' if vectors else ''}UNWIND $ids AS wanted "
        "MATCH (m:Memory {tenant: $tenant, id: wanted}) "
        f"RETURN m.id AS id, {_embedding(vectors)} AS embedding",
        tenant=tenant,
        ids=list(dict.fromkeys(ids)),
    )
    found = {row["id"]: embedding_of(row["embedding"]) for row in rows}
    none = np.zeros(dimensions, np.float32)
    given = np.zeros((len(ids), dimensions), np.float32)
    for index, id in enumerate(ids):
        given[index] = found.get(id, none)
    return given


async def records(
    client: Neo4jClient,
    tenant: str,
    *,
    now: datetime,
    after: str | None,
    limit: int,
    vectors: bool,
) -> list[Record]:
    """Memories that are not forgotten with their embeddings, by id, those behind `after`."""
    rows = await client.run(
        f"{'CYPHER 25 ' if vectors else ''}MATCH (m:Memory) "
        "WHERE m.tenant = $tenant AND m.id > $after AND m.expires_at > $now "
        f"WITH m ORDER BY m.tenant, m.id LIMIT $limit "
        f"RETURN {MEMORY} AS memory, {_embedding(vectors)} AS embedding",
        tenant=tenant,
        after=after or "",
        now=to_microseconds(now),
        limit=limit,
    )
    return [Record(memory_of(row["memory"]), embedding_of(row["embedding"])) for row in rows]


async def relations(
    client: Neo4jClient,
    selection: Selection,
    ids: Sequence[str],
    relation_types: Sequence[str] | None,
) -> list[Relation]:
    """Relations, of these types, between these memories and these or selected ones."""
    predicate = selection_predicate(selection)
    rows = await client.run(
        "UNWIND $ids AS wanted "
        f"MATCH (this:Memory {{tenant: $tenant, id: wanted}})-[r:{RELATIONS}]-(m) "
        f"WHERE ($types IS NULL OR r.relation_type IN $types) "
        f"AND (m.id IN $ids OR ({predicate.text})) "
        "WITH DISTINCT r, startNode(r) AS source, endNode(r) AS target "
        f"RETURN {_RELATION}",
        **predicate.parameters,
        tenant=selection.tenant,
        ids=list(dict.fromkeys(ids)),
        types=None if relation_types is None else list(relation_types),
    )
    found = [relation_of(row) for row in rows]
    found.sort(key=lambda relation: (relation.source, relation.relation_type, relation.target))
    return found


async def relations_after(
    client: Neo4jClient, tenant: str, after: tuple[str, str, str] | None, *, limit: int
) -> list[Relation]:
    """Relations, and supersession, by source, type and target, those behind `after`."""
    source, relation_type, target = after or ("", "", "")
    rows = await client.run(
        "MATCH (source:Memory) WHERE source.tenant = $tenant AND source.id >= $source "
        f"MATCH (source)-[r:{RELATIONS_AND_SUPERSESSION}]->(target) "
        # The index compares by code points; the rest is compared by sort keys.
        "WHERE source.id <> $source OR coalesce(r.sort_key, r.relation_type) > $type_key "
        "OR (r.relation_type = $type AND coalesce(target.sort_key, target.id) > $target_key) "
        "WITH source, r, target "
        "ORDER BY source.tenant, source.id, r.relation_type, target.id LIMIT $limit "
        "RETURN source.id AS source, r.relation_type AS relation_type, target.id AS target, "
        f"r.weight AS weight, CASE type(r) WHEN '{SUPERSEDES}' THEN source.created_at "
        "ELSE r.created_at END AS created_at",
        tenant=tenant,
        source=source,
        type=relation_type,
        type_key=sort_key(relation_type) or relation_type,
        target_key=sort_key(target) or target,
        limit=limit,
    )
    return [relation_of(row) for row in rows]


async def history(client: Neo4jClient, selection: Selection, id: str) -> list[Memory]:
    """The selected memories among those that supersede one another through `id`, oldest first."""
    predicate = selection_predicate(selection)
    rows = await client.run(
        _HISTORY.replace("PREDICATE", predicate.text),
        **predicate.parameters,
        tenant=selection.tenant,
        id=id,
        now=to_microseconds(selection.now),
    )
    chain: dict[str, Row] = {row["id"]: row for row in rows}
    if id not in chain:
        return []
    ordered = _line(chain, id, "supersedes")[::-1] + _line(chain, id, "superseded_by")[1:]
    found = [chain[one]["memory"] for one in dict.fromkeys(ordered)]
    return [memory_of(memory) for memory in found if memory is not None]


async def tags(client: Neo4jClient, selection: Selection) -> list[Count]:
    """The tags of the selected memories, the most frequent first, then by name."""
    return await _counts(client, selection, "UNWIND m.tags AS name")


async def contexts(client: Neo4jClient, selection: Selection) -> list[Count]:
    """The contexts of the selected memories, the most frequent first, then by name."""
    return await _counts(client, selection, "WITH m.context AS name WHERE name IS NOT NULL")


async def stats(client: Neo4jClient, tenant: str, *, now: datetime) -> Stats:
    """What the tenant has, without what is forgotten."""
    rows = await client.run(_STATS, tenant=tenant, now=to_microseconds(now))
    return Stats(**rows[0].data())


async def tenants(client: Neo4jClient) -> list[str]:
    """The tenants that have memories, in order."""
    return sorted([row["name"] for row in await client.run(_TENANTS)])


def embedding_of(given: Any) -> npt.NDArray[np.float32]:
    """An embedding that was read, whichever way the server sends it: (dimensions,)."""
    if isinstance(given, Vector):
        return np.frombuffer(given.raw(), ">f4").astype(np.float32)
    return np.array(given, np.float32)


def _embedding(vectors: bool) -> str:
    # As a vector it is 4 bytes a number on the way, and is not read number by number here.
    return "vector(m.embedding, size(m.embedding), FLOAT32)" if vectors else "m.embedding"


async def _counts(client: Neo4jClient, selection: Selection, names: str) -> list[Count]:
    predicate = selection_predicate(selection)
    rows = await client.run(
        f"MATCH (m:Memory) WHERE {predicate.text} {names} RETURN name, count(*) AS memories",
        **predicate.parameters,
    )
    counts = [Count(row["name"], row["memories"]) for row in rows]
    return sorted(counts, key=lambda count: (-count.memories, count.name))


def _line(chain: dict[str, Row], id: str, link: str) -> list[str]:
    """The ids from this one on, as far as the links lead."""
    line: list[str] = []
    following: str | None = id
    while following is not None and following in chain and following not in line:
        line.append(following)
        following = chain[following][link]
    return line
