"""What the embedded store reads, but for searches; each reads one state of the database."""

import sqlite3
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from service.memory.model import Count, Memory, Record, Stats, to_microseconds
from service.memory.sqlite_filters import marks, selected, unforgotten, valid_at
from service.memory.sqlite_rows import (
    FROM_MEMORY,
    MEMORY_COLUMNS,
    memory_of,
    read_embedding,
)
from service.memory.store import Order, Position, Selection

NO_STATS = Stats(
    memories=0, current=0, relations=0, tags=0, contexts=0, users=0, agents=0, sessions=0
)

# How many ids one statement is about.
_IDS_AT_ONCE = 5_000


def get(
    connection: sqlite3.Connection, tenant: int, selection: Selection, ids: Sequence[str]
) -> list[Memory | None]:
    """What `MemoryStore.get` gives."""
    condition = selected(selection, tenant)
    found: dict[str, Memory] = {}
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = ids[start : start + _IDS_AT_ONCE]
        rows = connection.execute(
            f"SELECT {MEMORY_COLUMNS} {FROM_MEMORY} "
            f"WHERE m.id IN ({marks(some)}) AND {condition.sql}",
            (*some, *condition.parameters),
        )
        found |= {memory.id: memory for memory in map(memory_of, rows)}
    return [found.get(id) for id in ids]


def page(
    connection: sqlite3.Connection,
    tenant: int,
    selection: Selection,
    order: Order,
    after: Position | None,
    limit: int,
) -> list[Memory]:
    """What `MemoryStore.page` gives."""
    condition = selected(selection, tenant)
    behind = ""
    place: tuple[float | str, ...] = ()
    if after:
        comparison = "<" if order.descending else ">"
        behind = f"AND (m.{order.field}, m.id) {comparison} (?, ?)"
        place = (after.value, after.id)
    direction = "DESC" if order.descending else "ASC"
    rows = connection.execute(
        f"SELECT {MEMORY_COLUMNS} {FROM_MEMORY} WHERE {condition.sql} {behind} "
        f"ORDER BY m.{order.field} {direction}, m.id {direction} LIMIT ?",
        (*condition.parameters, *place, limit),
    )
    return [memory_of(row) for row in rows]


def tags(connection: sqlite3.Connection, tenant: int, selection: Selection) -> list[Count]:
    """What `MemoryStore.tags` gives."""
    condition = selected(selection, tenant)
    rows = connection.execute(
        "SELECT tag.tag, count(*) FROM memory m CROSS JOIN tag ON tag.n = m.n "
        f"WHERE {condition.sql} GROUP BY 1 ORDER BY 2 DESC, 1",
        condition.parameters,
    )
    return [Count(name, memories) for name, memories in rows]


def contexts(connection: sqlite3.Connection, tenant: int, selection: Selection) -> list[Count]:
    """What `MemoryStore.contexts` gives."""
    condition = selected(selection, tenant)
    rows = connection.execute(
        "SELECT m.context, count(*) FROM memory m "
        f"WHERE m.context IS NOT NULL AND {condition.sql} GROUP BY 1 ORDER BY 2 DESC, 1",
        condition.parameters,
    )
    return [Count(name, memories) for name, memories in rows]


def stats(connection: sqlite3.Connection, tenant: int, now: int) -> Stats:
    """What `MemoryStore.stats` gives."""
    there, current = unforgotten(now), valid_at(now)
    memories, currently, distinct_contexts, users, agents, sessions = connection.execute(
        f"SELECT count(*), count(*) FILTER (WHERE {current.sql}), count(DISTINCT m.context), "
        "count(DISTINCT m.user_id), count(DISTINCT m.agent_id), count(DISTINCT m.session_id) "
        f"FROM memory m WHERE m.tenant = ? AND {there.sql}",
        (*current.parameters, tenant, *there.parameters),
    ).fetchone()
    (distinct_tags,) = connection.execute(
        "SELECT count(DISTINCT tag.tag) FROM memory m CROSS JOIN tag ON tag.n = m.n "
        f"WHERE m.tenant = ? AND {there.sql}",
        (tenant, *there.parameters),
    ).fetchone()
    (relations,) = connection.execute(
        """
        SELECT count(*) FROM relation r
        CROSS JOIN memory source ON source.tenant = r.tenant AND source.id = r.source
        CROSS JOIN memory target ON target.tenant = r.tenant AND target.id = r.target
        WHERE r.tenant = :tenant
            AND (source.expires_at IS NULL OR source.expires_at > :now)
            AND (target.expires_at IS NULL OR target.expires_at > :now)
        """,
        {"tenant": tenant, "now": now},
    ).fetchone()
    return Stats(
        memories=memories,
        current=currently,
        relations=relations,
        tags=distinct_tags,
        contexts=distinct_contexts,
        users=users,
        agents=agents,
        sessions=sessions,
    )


def tenants(connection: sqlite3.Connection) -> list[str]:
    """What `MemoryStore.tenants` gives."""
    rows = connection.execute(
        "SELECT name FROM tenant WHERE EXISTS (SELECT 1 FROM memory WHERE tenant = number) "
        "ORDER BY name"
    )
    return [name for (name,) in rows]


def history(
    connection: sqlite3.Connection, tenant: int, selection: Selection, id: str
) -> list[Memory]:
    """What `MemoryStore.history` gives."""
    row = connection.execute(
        "SELECT supersedes, superseded_by, expires_at FROM memory WHERE tenant = ? AND id = ?",
        (tenant, id),
    ).fetchone()
    if not row or (row[2] is not None and row[2] <= to_microseconds(selection.now)):
        return []
    line = {id: None}  # in order, each once
    for column, linked in zip(("supersedes", "superseded_by"), row[:2], strict=True):
        line = dict.fromkeys(reversed(line))
        while linked is not None and linked not in line:
            line[linked] = None
            (linked,) = connection.execute(
                f"SELECT {column} FROM memory WHERE tenant = ? AND id = ?", (tenant, linked)
            ).fetchone()
    return [memory for memory in get(connection, tenant, selection, list(line)) if memory]


def records(
    connection: sqlite3.Connection, tenant: int, now: int, after: str | None, limit: int
) -> list[Record]:
    """What `MemoryStore.records` gives."""
    there = unforgotten(now)
    behind, place = ("", ()) if after is None else ("AND m.id > ?", (after,))
    rows = connection.execute(
        f"SELECT {MEMORY_COLUMNS}, e.embedding {FROM_MEMORY} CROSS JOIN embedding e ON e.n = m.n "
        f"WHERE m.tenant = ? {behind} AND {there.sql} ORDER BY m.id LIMIT ?",
        (tenant, *place, *there.parameters, limit),
    )
    return [Record(memory_of(row), read_embedding(row[-1])) for row in rows]


def embeddings(
    connection: sqlite3.Connection, tenant: int, ids: Sequence[str], dimensions: int
) -> npt.NDArray[np.float32]:
    """What `MemoryStore.embeddings` gives: (ids, dimensions)."""
    found = np.zeros((len(ids), dimensions), np.float32)
    for index, id in enumerate(ids):
        row = connection.execute(
            "SELECT e.embedding FROM memory m CROSS JOIN embedding e ON e.n = m.n "
            "WHERE m.tenant = ? AND m.id = ?",
            (tenant, id),
        ).fetchone()
        if row:
            found[index] = read_embedding(row[0])
    return found
