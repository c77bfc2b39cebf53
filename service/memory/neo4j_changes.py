"""What a transaction changes of a tenant: read as far as needed, planned, written at the end."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from neo4j.vector import Vector

from service.memory.model import (
    SUPERSEDES,
    Embedding,
    Memory,
    Relation,
    content_hash,
    to_microseconds,
)
from service.memory.neo4j_client import Neo4jTransaction
from service.memory.neo4j_rows import (
    MEMORY,
    SHARED,
    links_of,
    memory_of,
    properties_of,
    relationship_type,
    shared_of,
    sort_key,
)

Item = TypeVar("Item")

# Rows of one statement; with embeddings of 768 numbers, more are not faster.
ROWS = 500

_FIND = f"""
UNWIND $ids AS id
MATCH (m:Memory {{tenant: $tenant, id: id}})
RETURN {MEMORY} AS memory
"""

_FIND_CONTENT = f"""
UNWIND $hashes AS hash
MATCH (m:Memory {{tenant: $tenant, content_hash: hash}})
WHERE m.superseded_by IS NULL AND m.expires_at > $now
RETURN {MEMORY} AS memory
"""

_DELETE = f"""
UNWIND $ids AS id
MATCH (m:Memory {{tenant: $tenant, id: id}})
OPTIONAL MATCH (m)-[:{SHARED}]->(n)
WITH collect(DISTINCT m) AS memories, collect(DISTINCT elementId(n)) AS nodes
FOREACH (m IN memories | DETACH DELETE m)
RETURN nodes
"""

_UNLINK = f"""
UNWIND $ids AS id
MATCH (m:Memory {{tenant: $tenant, id: id}})-[r:{SHARED}]->(n)
DELETE r
RETURN collect(DISTINCT elementId(n)) AS nodes
"""

_DELETE_ORPHANS = """
UNWIND $nodes AS node
MATCH (n) WHERE elementId(n) = node AND NOT EXISTS { (n)--() }
DELETE n
"""

_SAVE = """
UNWIND $rows AS row
MERGE (m:Memory {tenant: $tenant, id: row.properties.id})
SET m += row.properties
FOREACH (name IN row.shared.tags |
  MERGE (n:Tag {tenant: $tenant, name: name}) MERGE (m)-[:TAGGED]->(n))
FOREACH (name IN row.shared.contexts |
  MERGE (n:Context {tenant: $tenant, name: name}) MERGE (m)-[:IN_CONTEXT]->(n))
FOREACH (name IN row.shared.users |
  MERGE (n:User {tenant: $tenant, name: name}) MERGE (m)-[:OF_USER]->(n))
FOREACH (name IN row.shared.sessions |
  MERGE (n:Session {tenant: $tenant, name: name}) MERGE (m)-[:IN_SESSION]->(n))
WITH m, row WHERE row.embedding IS NOT NULL
CALL db.create.setNodeVectorProperty(m, 'embedding', row.embedding)
"""

_SAVE_LINKS = """
UNWIND $rows AS row
MATCH (m:Memory {tenant: $tenant, id: row.id})
SET m += row.links
"""

_SUPERSEDE = f"""
UNWIND $rows AS row
MATCH (m:Memory {{tenant: $tenant, id: row.id}})
OPTIONAL MATCH (m)-[r:{SUPERSEDES}]->()
DELETE r
WITH DISTINCT m, row
MATCH (older:Memory {{tenant: $tenant, id: row.supersedes}})
CREATE (m)-[:{SUPERSEDES} {{relation_type: '{SUPERSEDES}', weight: 1.0}}]->(older)
"""

_RELATE = """
UNWIND $rows AS row
MATCH (m:Memory {tenant: $tenant, id: row.source})
MATCH (o:Memory {tenant: $tenant, id: row.target})
MERGE (m)-[r:RELATION_TYPE {relation_type: row.relation_type}]->(o)
ON CREATE SET r.created_at = row.created_at
SET r.weight = row.weight, r.sort_key = row.sort_key
RETURN count(*) AS written
"""
_LOAD_RELATIONS = _RELATE.replace("ON CREATE SET", "SET")


class Changes:
    """Memories and relations as they will be; whoever makes it has locked the tenant.

    Memories that supersede one another are a list with links in both directions, which every
    change keeps whole.
    """

    def __init__(self, transaction: Neo4jTransaction, tenant: str, *, vectors: bool) -> None:
        self._transaction = transaction
        self._tenant = tenant
        self._vectors = vectors  # the server takes embeddings as such, and not as lists
        self._found: dict[str, Memory | None] = {}
        self._memories: dict[str, Memory | None] = {}
        self._embeddings: dict[str, Embedding] = {}
        self._made_anew: set[str] = set()
        self._by_content: dict[str, set[str]] = {}
        self._deleted: list[str] = []
        self._relations: dict[tuple[str, str, str], Relation] = {}
        self._orphans: set[str] = set()

    async def find(self, ids: Iterable[str]) -> None:
        """Read these memories at once, so that they need not be one by one."""
        missing = list(dict.fromkeys(id for id in ids if id not in self._found))
        for some in batches(missing):
            rows = await self._transaction.run(_FIND, tenant=self._tenant, ids=some)
            for row in rows:
                self._learn(memory_of(row["memory"]))
        for id in missing:
            self._found.setdefault(id, None)
            self._memories.setdefault(id, None)

    async def find_with_neighbours(self, ids: Sequence[str]) -> None:
        """Read these memories and what they supersede or are superseded by."""
        await self.find(ids)
        memories = [self._memories[id] for id in ids]
        links = [(memory.supersedes, memory.superseded_by) for memory in memories if memory]
        await self.find(id for pair in links for id in pair if id is not None)

    async def find_content(self, hashes: Sequence[str], *, now: datetime) -> None:
        """Read the memories that have one of these contents, current ones that is."""
        if not hashes:
            return
        rows = await self._transaction.run(
            _FIND_CONTENT, tenant=self._tenant, hashes=hashes, now=to_microseconds(now)
        )
        for row in rows:
            self._learn(memory_of(row["memory"]))

    async def memory(self, id: str) -> Memory | None:
        """The memory as it will be."""
        if id not in self._memories:
            await self.find([id])
        return self._memories[id]

    def with_content(self, hash_: str) -> list[Memory]:
        """The memories with this content, of those that were read or put here."""
        memories = [self._memories[id] for id in self._by_content.get(hash_, ())]
        return [memory for memory in memories if memory and content_hash(memory) == hash_]

    def put(self, memory: Memory, embedding: Embedding | None = None) -> None:
        """Write this memory; without an embedding it keeps the one it has."""
        self._memories[memory.id] = memory
        self._by_content.setdefault(content_hash(memory), set()).add(memory.id)
        if embedding is not None:
            self._embeddings[memory.id] = embedding

    async def remove(self, id: str) -> None:
        """Delete a memory, and let what it superseded and what superseded it follow one another."""
        memory = await self.memory(id)
        if memory is None:
            return
        older = await self.memory(memory.supersedes) if memory.supersedes else None
        newer = await self.memory(memory.superseded_by) if memory.superseded_by else None
        if older is not None:
            self.put(
                msgspec.structs.replace(
                    older,
                    superseded_by=newer.id if newer else None,
                    valid_to=newer.valid_from if newer else None,
                )
            )
        if newer is not None:
            self.put(msgspec.structs.replace(newer, supersedes=older.id if older else None))
        self._memories[id] = None
        self._embeddings.pop(id, None)
        self._made_anew.add(id)

    def remove_single(self, ids: Iterable[str]) -> None:
        """Delete memories that were not read and are in no supersession."""
        self._deleted += ids

    def relate(self, relations: Iterable[Relation]) -> None:
        """Write relations between memories that are there when everything is written."""
        for relation in relations:
            key = (relation.source, relation.relation_type, relation.target)
            earlier = self._relations.get(key)
            if earlier is not None:
                relation = msgspec.structs.replace(relation, created_at=earlier.created_at)
            self._relations[key] = relation

    async def write(self) -> None:
        """Send all that was planned."""
        await self._write_deletions()
        saved, links, superseding = [], [], []
        for memory in self._memories.values():
            if memory is None:
                continue
            known = self._known(memory.id)
            if (
                known is None
                or memory.id in self._embeddings
                or _without_links(memory) != _without_links(known)
            ):
                saved.append((memory, known))
            elif memory != known:
                links.append({"id": memory.id, "links": links_of(memory)})
            if memory.supersedes != (known.supersedes if known else None):
                superseding.append({"id": memory.id, "supersedes": memory.supersedes})
        await self._save(saved)
        await self._run(_SAVE_LINKS, links)
        await self._run(_SUPERSEDE, superseding)
        await write_relations(
            self._transaction, self._tenant, list(self._relations.values()), keep_created_at=True
        )
        if self._orphans:
            await self._transaction.run(_DELETE_ORPHANS, nodes=list(self._orphans))

    def _known(self, id: str) -> Memory | None:
        """The memory that the database has under this id when deletions are done."""
        return None if id in self._made_anew else self._found.get(id)

    def _learn(self, memory: Memory) -> None:
        if memory.id not in self._found:
            self._found[memory.id] = memory
            self._memories[memory.id] = memory
            self._by_content.setdefault(content_hash(memory), set()).add(memory.id)

    async def _write_deletions(self) -> None:
        removed = [id for id in self._made_anew if self._found.get(id) is not None]
        for some in batches([*self._deleted, *removed]):
            rows = await self._transaction.run(_DELETE, tenant=self._tenant, ids=some)
            self._orphans.update(rows[0]["nodes"])

    async def _save(self, saved: Sequence[tuple[Memory, Memory | None]]) -> None:
        elsewhere = [
            memory.id
            for memory, known in saved
            if known is not None and shared_of(memory) != shared_of(known)
        ]
        for some in batches(elsewhere):
            rows = await self._transaction.run(_UNLINK, tenant=self._tenant, ids=some)
            self._orphans.update(rows[0]["nodes"])
        await self._run(_SAVE, [self._row(memory) for memory, _ in saved])

    def _row(self, memory: Memory) -> dict[str, Any]:
        embedding = self._embeddings.get(memory.id)
        return {
            "properties": properties_of(self._tenant, memory),
            "shared": shared_of(memory),
            "embedding": None if embedding is None else sent(embedding, vectors=self._vectors),
        }

    async def _run(self, statement: str, rows: Sequence[dict[str, Any]]) -> None:
        for some in batches(rows):
            await self._transaction.run(statement, tenant=self._tenant, rows=some)


async def write_relations(
    transaction: Neo4jTransaction,
    tenant: str,
    relations: Sequence[Relation],
    *,
    keep_created_at: bool,
) -> int:
    """Write relations between memories that are there; gives how many of them were.

    One that is there gets the weight, and keeps its `created_at` or gets that too.
    """
    by_type: dict[str, list[dict[str, Any]]] = {}
    for relation in relations:
        row = msgspec.structs.asdict(relation)
        row["created_at"] = to_microseconds(relation.created_at)
        row["weight"] = float(relation.weight)
        row["sort_key"] = sort_key(relation.relation_type)
        by_type.setdefault(relationship_type(relation.relation_type), []).append(row)
    statement = _RELATE if keep_created_at else _LOAD_RELATIONS
    written = 0
    for type_, rows in by_type.items():
        for some in batches(rows):
            found = await transaction.run(
                statement.replace("RELATION_TYPE", type_), tenant=tenant, rows=some
            )
            written += found[0]["written"]
    return written


def batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """The items in pieces for one statement each."""
    for start in range(0, len(items), ROWS):
        yield items[start : start + ROWS]


def sent(embedding: Embedding, *, vectors: bool) -> Any:
    """An embedding as a parameter."""
    return Vector.from_numpy(embedding) if vectors else embedding.tolist()


def _without_links(memory: Memory) -> Memory:
    return msgspec.structs.replace(memory, supersedes=None, superseded_by=None, valid_to=None)
