import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import InvalidFilter
from service.memory.filters import All, Filter, Not, Tagged, TextIn, matches, parse_filter
from service.memory.model import Memory, to_microseconds
from service.memory.sqlite_filters import numbers_passing, selected
from service.memory.sqlite_rows import insert, own_tenant_number, prepare, prepare_embeddings
from service.memory.sqlite_schema import migrate
from service.memory.sqlite_writer import Transaction
from service.memory.store import Selection
from tests.memory.memories import (
    DIMENSIONS,
    TIMES,
    embedding,
    filter_documents,
    memories,
    memory,
)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    migrate(connection)
    yield connection
    connection.close()


def write(connection: sqlite3.Connection, tenant: str, *written: Memory) -> int:
    """Have memories in a tenant, whose number this gives."""
    number = own_tenant_number(connection, tenant)
    (prepared,) = prepare_embeddings([embedding()], DIMENSIONS)
    for one in written:
        insert(Transaction(connection, 1, {}), number, prepare(one, prepared))
    return number


def passing(connection: sqlite3.Connection, tenant: int, filter_: Filter) -> set[str]:
    statement = numbers_passing(filter_, tenant)
    rows = connection.execute(
        f"SELECT id FROM memory WHERE n IN ({statement.sql})", statement.parameters
    )
    return {id for (id,) in rows}


def selected_ids(connection: sqlite3.Connection, tenant: int, selection: Selection) -> set[str]:
    condition = selected(selection, tenant)
    rows = connection.execute(
        f"SELECT m.id FROM memory m WHERE {condition.sql}", condition.parameters
    )
    return {id for (id,) in rows}


written = st.lists(
    memories(st.sampled_from([f"id-{number}" for number in range(8)])),
    max_size=8,
    unique_by=lambda memory: memory.id,
)


@given(written, st.lists(filter_documents(), min_size=1, max_size=8))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sql_means_what_matches_says(
    connection: sqlite3.Connection, these: list[Memory], documents: list[dict[str, Any]]
) -> None:
    connection.execute("DELETE FROM memory")
    tenant = write(connection, "ours", *these)
    write(connection, "theirs", *these)
    for document in documents:
        filter_ = parse_filter(document)
        expected = {one.id for one in these if matches(filter_, one)}
        assert passing(connection, tenant, filter_) == expected
        selection = Selection(tenant="ours", now=TIMES[1], as_of=TIMES[2], filter=filter_)
        visible = {
            one.id
            for one in these
            if one.expires_at is None or one.expires_at > max(TIMES[1], TIMES[2])
            if one.valid_from <= TIMES[2]
        }
        assert selected_ids(connection, tenant, selection) == expected & visible


@pytest.mark.parametrize("value", ["a\0b", "a", "'; DROP TABLE memory; --", '"', "é\U0001f600"])
def test_any_text_can_be_compared(connection: sqlite3.Connection, value: str) -> None:
    tenant = write(
        connection,
        "ours",
        memory(id="has", title=value, tags=(value,), metadata={value: value}),
        memory(id="has not", title=value + "x", tags=(value + "x",), metadata={value: value + "x"}),
    )
    for document in ({"title": value}, {"tags": value}, {f"metadata.{value}": value}):
        assert passing(connection, tenant, parse_filter(document)) == {"has"}


def test_a_metadata_number_is_compared_to_its_last_bit(connection: sqlite3.Connection) -> None:
    number = 0.1 + 0.2
    tenant = write(
        connection,
        "ours",
        memory(id="three", metadata={"k": number}),
        memory(id="near", metadata={"k": 0.3}),
    )
    assert passing(connection, tenant, parse_filter({"metadata.k": number})) == {"three"}


def test_the_deepest_and_the_widest_filters_are_taken(connection: sqlite3.Connection) -> None:
    tenant = write(connection, "ours", memory(id="it", tags=("a",)))
    deep: Filter = TextIn("id", ("it",))
    for _ in range(14):
        deep = Not(Not(All((deep, *[All(())] * 999))))
    wide = All(tuple(Tagged("any", ("a", f"tag {number}")) for number in range(256)))
    assert passing(connection, tenant, All((deep, wide))) == {"it"}


def test_more_values_than_sqlite_takes_are_refused(connection: sqlite3.Connection) -> None:
    many = tuple(map(str, range(1_000)))
    with pytest.raises(InvalidFilter, match="at most 32,000 values in all, got 33,001"):
        numbers_passing(All((TextIn("id", many),) * 33), 1)


def test_times_are_compared_to_the_microsecond(connection: sqlite3.Connection) -> None:
    tenant = write(connection, "ours", memory(id="it", created_at=TIMES[4]))
    for time in TIMES:
        after = parse_filter({"created_at": {"gt": time.isoformat()}})
        expected = {"it"} if to_microseconds(TIMES[4]) > to_microseconds(time) else set()
        assert passing(connection, tenant, after) == expected
