import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.memory.model import (
    NEVER,
    Memory,
    content_hash,
    from_microseconds,
    new_id,
    to_microseconds,
)
from tests.memory.memories import NOW, at, memory

MOMENTS = st.datetimes(timezones=st.just(UTC))


@given(time=MOMENTS)
def test_a_time_survives_as_microseconds(time: datetime) -> None:
    assert from_microseconds(to_microseconds(time)) == time


@given(first=MOMENTS, second=MOMENTS)
def test_microseconds_order_as_the_times_do(first: datetime, second: datetime) -> None:
    assert (to_microseconds(first) < to_microseconds(second)) == (first < second)


def test_microseconds_count_from_1970_in_utc() -> None:
    noon_in_tokyo = datetime(1970, 1, 2, 9, 0, 0, 7, tzinfo=timezone(timedelta(hours=9)))
    assert to_microseconds(noon_in_tokyo) == 24 * 3600 * 1_000_000 + 7


def test_never_is_later_than_every_time() -> None:
    assert from_microseconds(NEVER) == datetime.max.replace(tzinfo=UTC)


def test_an_id_is_a_uuid_of_version_7_that_holds_its_time() -> None:
    made = uuid.UUID(new_id(NOW))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == to_microseconds(NOW) // 1_000


def test_ids_sort_by_the_time_they_were_made() -> None:
    ids = [new_id(at(minutes / 1_000)) for minutes in range(100)]
    assert ids == sorted(ids)


def test_ids_of_one_moment_differ() -> None:
    assert len({new_id(NOW) for _ in range(1_000)}) == 1_000


def test_the_same_content_in_the_same_scope_has_the_same_hash() -> None:
    scope: dict[str, Any] = {"user_id": "ada", "agent_id": "helper", "session_id": "s1"}
    first = memory("tea", **scope, tags=("a",), importance=0.1, title="one", memory_type="fact")
    assert content_hash(first) == content_hash(memory("tea", **scope, created_at=at(5)))


@pytest.mark.parametrize("field", ["content", "user_id", "agent_id", "session_id"])
def test_another_scope_or_content_has_another_hash(field: str) -> None:
    assert content_hash(memory("tea")) != content_hash(
        msgspec.structs.replace(memory("tea"), **{field: "other"})
    )


@given(
    first=st.tuples(*[st.none() | st.text(max_size=3)] * 3, st.text(max_size=3)),
    second=st.tuples(*[st.none() | st.text(max_size=3)] * 3, st.text(max_size=3)),
)
def test_only_the_same_scope_and_content_have_the_same_hash(
    first: tuple[str | None, str | None, str | None, str],
    second: tuple[str | None, str | None, str | None, str],
) -> None:
    def hash_of(scope: tuple[str | None, str | None, str | None, str]) -> str:
        user_id, agent_id, session_id, content = scope
        return content_hash(
            memory(content, user_id=user_id, agent_id=agent_id, session_id=session_id)
        )

    assert (hash_of(first) == hash_of(second)) == (first == second)


def test_a_memory_survives_json_whole() -> None:
    whole = memory(
        "tea",
        title="Tea",
        tags=("a", "b"),
        metadata={"nested": [{"deep": None}], "number": 2**53 + 1},
        valid_to=at(1),
        expires_at=at(2),
        supersedes="x",
        superseded_by="y",
        version=3,
    )
    assert msgspec.json.decode(msgspec.json.encode(whole), type=Memory) == whole
