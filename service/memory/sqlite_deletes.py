"""What the embedded store does to delete memories and mend what superseded them."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime

import msgspec

from service.memory.filters import Filter
from service.memory.model import Deleted
from service.memory.sqlite_filters import numbers_passing, unforgotten
from service.memory.sqlite_rows import (
    Stored,
    erase,
    find,
    link,
    number_list,
    tenant_number,
)
from service.memory.sqlite_writer import Operation, Transaction


def delete(tenant: str, filter_: Filter, now: int) -> Operation[Deleted]:
    """What deletes the memories that pass a filter; gives how much that is."""

    def operation(transaction: Transaction) -> Deleted:
        number = tenant_number(transaction.connection, tenant)
        if number is None:
            return Deleted(0, 0)
        numbers = _passing(transaction.connection, number, filter_)
        deleted = _count(transaction.connection, number, numbers, now)
        forget(transaction, number, numbers)
        return deleted

    return operation


def count_deletable(
    connection: sqlite3.Connection, tenant: int, filter_: Filter, now: int
) -> Deleted:
    """What deleting the memories that pass a filter would delete."""
    return _count(connection, tenant, _passing(connection, tenant, filter_), now)


def purge(now: int, receipts_before: int) -> Operation[int]:
    """What deletes memories that are forgotten, and old receipts; gives how many memories."""

    def operation(transaction: Transaction) -> int:
        connection = transaction.connection
        connection.execute("DELETE FROM receipt WHERE created_at < ?", (receipts_before,))
        rows = connection.execute(
            "SELECT tenant, n FROM memory WHERE expires_at <= ?", (now,)
        ).fetchall()
        by_tenant: dict[int, list[int]] = {}
        for tenant, n in rows:
            by_tenant.setdefault(tenant, []).append(n)
        for tenant, numbers in by_tenant.items():
            forget(transaction, tenant, numbers)
        return len(rows)

    return operation


def forget(transaction: Transaction, tenant: int, numbers: Sequence[int]) -> None:
    """Delete memories by number; what remains is as if they had never been."""
    connection = transaction.connection
    superseding = connection.execute(
        "SELECT id, supersedes, superseded_by FROM memory WHERE n IN "
        "(SELECT value FROM json_each(?)) AND coalesce(supersedes, superseded_by) IS NOT NULL",
        (number_list(numbers),),
    ).fetchall()
    erase(transaction, tenant, numbers)
    older = {id: supersedes for id, supersedes, _ in superseding}
    newer = {id: superseded_by for id, _, superseded_by in superseding}
    while newer:
        # One run of deleted memories in a line of them that supersede one another.
        id = next(iter(newer))
        run = {id}
        after, before = newer[id], older[id]
        while after in newer and after not in run:
            run.add(after)
            after = newer[after]
        while before in older and before not in run:
            run.add(before)
            before = older[before]
        for id in run:
            del newer[id], older[id]
        _close_gap(transaction, tenant, before, after)


def _close_gap(
    transaction: Transaction, tenant: int, before: str | None, after: str | None
) -> None:
    predecessor = _find(transaction.connection, tenant, before)
    successor = _find(transaction.connection, tenant, after)
    if predecessor:
        reopened = msgspec.structs.replace(
            predecessor.memory,
            superseded_by=successor.memory.id if successor else None,
            valid_to=_beginning(successor),
        )
        link(transaction, tenant, predecessor.n, reopened)
    if successor:
        moved = msgspec.structs.replace(
            successor.memory, supersedes=predecessor.memory.id if predecessor else None
        )
        link(transaction, tenant, successor.n, moved)


def _find(connection: sqlite3.Connection, tenant: int, id: str | None) -> Stored | None:
    return None if id is None else find(connection, tenant, id)


def _beginning(stored: Stored | None) -> datetime | None:
    return stored.memory.valid_from if stored else None


def _passing(connection: sqlite3.Connection, tenant: int, filter_: Filter) -> list[int]:
    statement = numbers_passing(filter_, tenant)
    rows = connection.execute(statement.sql, statement.parameters)
    return [n for (n,) in rows]


def _count(
    connection: sqlite3.Connection, tenant: int, numbers: Sequence[int], now: int
) -> Deleted:
    # A relation is there while both its memories are.
    there = unforgotten(now)
    given = number_list(numbers)
    (memories,) = connection.execute(
        "SELECT count(*) FROM memory m WHERE m.n IN (SELECT value FROM json_each(?)) "
        f"AND {there.sql}",
        (given, *there.parameters),
    ).fetchone()
    return Deleted(memories, _count_relations(connection, tenant, given, now))


def _count_relations(connection: sqlite3.Connection, tenant: int, given: str, now: int) -> int:
    (relations,) = connection.execute(
        """
        SELECT count(*) FROM (
            SELECT r.source, r.relation_type, r.target
            FROM memory m CROSS JOIN relation r ON r.tenant = m.tenant AND r.source = m.id
            WHERE m.n IN (SELECT value FROM json_each(:given))
            UNION
            SELECT r.source, r.relation_type, r.target
            FROM memory m CROSS JOIN relation r ON r.tenant = m.tenant AND r.target = m.id
            WHERE m.n IN (SELECT value FROM json_each(:given))
        ) r
        CROSS JOIN memory source ON source.tenant = :tenant AND source.id = r.source
        CROSS JOIN memory target ON target.tenant = :tenant AND target.id = r.target
        WHERE (source.expires_at IS NULL OR source.expires_at > :now)
            AND (target.expires_at IS NULL OR target.expires_at > :now)
        """,
        {"given": given, "tenant": tenant, "now": now},
    ).fetchone()
    return int(relations)
