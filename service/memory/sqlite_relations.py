"""Relations in the embedded store. Supersession is kept with the memories, not here."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from service.memory.model import SUPERSEDES, Relation, from_microseconds, to_microseconds
from service.memory.sqlite_filters import marks, selected
from service.memory.sqlite_rows import tenant_number
from service.memory.sqlite_writer import Operation, Transaction
from service.memory.store import Selection

# How many ids one statement is about.
_IDS_AT_ONCE = 5_000


def relate(tenant: str, relations: Sequence[Relation]) -> Operation[list[str]]:
    """What writes relations, if all their memories are there; gives the ids that are not."""

    def operation(transaction: Transaction) -> list[str]:
        connection = transaction.connection
        ends = dict.fromkeys(
            id for relation in relations for id in (relation.source, relation.target)
        )
        number = tenant_number(connection, tenant)
        if number is None:
            return list(ends)
        missing = [id for id in ends if not is_there(connection, number, id)]
        if not missing:
            write_relations(connection, number, relations)
        return missing

    return operation


def unrelate(tenant: str, source: str, target: str, relation_type: str | None) -> Operation[int]:
    """What deletes the relations between two memories; gives how many."""

    def operation(transaction: Transaction) -> int:
        return transaction.connection.execute(
            "DELETE FROM relation WHERE tenant = (SELECT number FROM tenant WHERE name = ?) "
            "AND source = ? AND target = ? AND relation_type = coalesce(?, relation_type)",
            (tenant, source, target, relation_type),
        ).rowcount

    return operation


def is_there(connection: sqlite3.Connection, tenant: int, id: str) -> bool:
    """Whether there is a memory of this id, forgotten or not."""
    row = connection.execute("SELECT 1 FROM memory WHERE tenant = ? AND id = ?", (tenant, id))
    return row.fetchone() is not None


def write_relations(
    connection: sqlite3.Connection, tenant: int, relations: Iterable[Relation]
) -> None:
    """Write relations whose memories are there; those that are there get the weight."""
    connection.executemany(
        "INSERT INTO relation (tenant, source, relation_type, target, weight, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET weight = excluded.weight",
        [_values(tenant, relation) for relation in relations],
    )


def replace_relation(connection: sqlite3.Connection, tenant: int, relation: Relation) -> None:
    """Write a relation whose memories are there as it is, with its `created_at`."""
    connection.execute(
        "INSERT OR REPLACE INTO relation "
        "(tenant, source, relation_type, target, weight, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        _values(tenant, relation),
    )


def find_relations(
    connection: sqlite3.Connection,
    tenant: int,
    selection: Selection,
    ids: Sequence[str],
    relation_types: Sequence[str] | None,
) -> list[Relation]:
    """What `MemoryStore.relations` gives."""
    given = tuple(dict.fromkeys(ids))
    here = set(given)
    found: dict[tuple[str, str, str], Relation] = {}
    for start in range(0, len(given), _IDS_AT_ONCE):
        some = given[start : start + _IDS_AT_ONCE]
        for this, other in (("source", "target"), ("target", "source")):
            for *row, other_selected in _leading(
                connection, tenant, selection, some, this, other, relation_types
            ):
                relation = _relation(row)
                if other_selected or (relation.source in here and relation.target in here):
                    found[key_of(relation)] = relation
    return [found[key] for key in sorted(found)]


def relations_behind(
    connection: sqlite3.Connection,
    tenant: int,
    after: tuple[str, str, str] | None,
    limit: int,
) -> list[Relation]:
    """What `MemoryStore.relations_after` gives."""
    place = after or ("", "", "")
    rows = connection.execute(
        """
        SELECT * FROM (
            SELECT source, relation_type, target, weight, created_at FROM relation
            WHERE tenant = :tenant AND (source, relation_type, target) > (:source, :type, :target)
            ORDER BY source, relation_type, target LIMIT :limit
        )
        UNION ALL
        SELECT * FROM (
            SELECT id, :supersedes, supersedes, 1.0, created_at FROM memory
            WHERE tenant = :tenant AND supersedes IS NOT NULL AND id >= :source
                AND (id, :supersedes, supersedes) > (:source, :type, :target)
            ORDER BY id LIMIT :limit
        )
        ORDER BY 1, 2, 3 LIMIT :limit
        """,
        {
            "tenant": tenant,
            "source": place[0],
            "type": place[1],
            "target": place[2],
            "supersedes": SUPERSEDES,
            "limit": limit,
        },
    )
    return [_relation(row) for row in rows]


def key_of(relation: Relation) -> tuple[str, str, str]:
    """What a relation is told from others by, and ordered by."""
    return relation.source, relation.relation_type, relation.target


def _leading(
    connection: sqlite3.Connection,
    tenant: int,
    selection: Selection,
    ids: Sequence[str],
    this: str,
    other: str,
    relation_types: Sequence[str] | None,
) -> Iterable[Any]:
    condition = selected(selection, tenant)
    of_types, types = "", tuple(relation_types or ())
    if relation_types is not None:
        of_types = f"AND r.relation_type IN ({marks(types)})"
    return connection.execute(
        f"""
        SELECT r.source, r.relation_type, r.target, r.weight, r.created_at,
            EXISTS (SELECT 1 FROM memory m WHERE m.id = r.{other} AND {condition.sql})
        FROM relation r WHERE r.tenant = ? AND r.{this} IN ({marks(ids)}) {of_types}
        """,
        (*condition.parameters, tenant, *ids, *types),
    )


def _values(tenant: int, relation: Relation) -> tuple[int | str | float, ...]:
    return (tenant, *key_of(relation), relation.weight, to_microseconds(relation.created_at))


def _relation(row: Sequence[Any]) -> Relation:
    return Relation(
        source=row[0],
        relation_type=row[1],
        target=row[2],
        weight=row[3],
        created_at=from_microseconds(row[4]),
    )
