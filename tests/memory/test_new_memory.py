from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from service.errors import InvalidInput
from service.memory.model import Memory
from service.memory.new_memory import (
    Changes,
    GivenRelation,
    NewMemory,
    Successor,
    begin_memory,
    change_memory,
    check_relation,
    checked_memory,
    in_utc,
    new_relations,
    succeed_memory,
)
from tests.memory.memories import NOW, at


def begun(content: str = "Ada likes tea.", **fields: Any) -> Memory:
    given = msgspec.convert({"content": content, **fields}, NewMemory)
    return begin_memory(given, id="made", now=NOW)


def test_a_memory_begins_now_under_the_id_that_was_made() -> None:
    memory = begun()
    assert memory.id == "made"
    assert memory.created_at == memory.updated_at == memory.valid_from == NOW


def test_an_own_id_and_time_go_before_those_that_were_made() -> None:
    memory = begun(id="own", valid_from="2025-01-01T00:00:00+01:00")
    assert memory.id == "own"
    assert memory.created_at == NOW
    assert memory.valid_from == datetime(2024, 12, 31, 23, tzinfo=UTC)


def test_tags_are_sorted_and_without_repetitions() -> None:
    assert begun(tags=["b", "a", "b"]).tags == ("a", "b")


@pytest.mark.parametrize("minutes", [-1, 0])
def test_a_memory_does_not_expire_before_it_is_made(minutes: float) -> None:
    with pytest.raises(InvalidInput, match="expires_at in the future"):
        begun(expires_at=at(minutes).isoformat())


def test_a_memory_does_not_expire_before_it_is_valid() -> None:
    with pytest.raises(InvalidInput, match="after valid_from"):
        begun(valid_from=at(10).isoformat(), expires_at=at(5).isoformat())
    assert begun(valid_from=at(10).isoformat(), expires_at=at(11).isoformat())


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 2**53 + 1, 0.1, -0.0, 1e308])
def test_metadata_takes_every_number_that_a_store_can_keep(number: float) -> None:
    assert begun(metadata={"n": [number]}).metadata == {"n": [number]}


def test_metadata_has_eight_levels_at_most() -> None:
    value: Any = 1
    for _ in range(6):
        value = {"a": value}
    assert begun(metadata={"a": value})
    with pytest.raises(InvalidInput, match="at most 8 levels"):
        begun(metadata={"a": {"a": value}})


def test_a_successor_has_what_it_does_not_name_from_the_old_memory() -> None:
    old = begun(tags=["a"], title="Drinks", user_id="ada", metadata={"a": 1}, importance=0.9)
    given = msgspec.convert({"content": "Ada likes coffee.", "title": None}, Successor)
    memory = succeed_memory(old, given, id="next", now=at(1))
    assert memory == msgspec.structs.replace(
        old,
        id="next",
        content="Ada likes coffee.",
        title=None,
        created_at=at(1),
        updated_at=at(1),
        valid_from=at(1),
        supersedes="made",
    )


def test_a_successor_does_not_expire_when_the_old_memory_does() -> None:
    old = begun(expires_at=at(60).isoformat())
    memory = succeed_memory(old, Successor(content="b"), id="next", now=at(1))
    assert memory.expires_at is None


def test_a_successor_of_a_changed_memory_is_of_version_one() -> None:
    old = msgspec.structs.replace(begun(), version=7, superseded_by="x", valid_to=at(1))
    memory = succeed_memory(old, Successor(content="b"), id="next", now=at(1))
    assert (memory.version, memory.superseded_by, memory.valid_to) == (1, None, None)


def test_a_successor_may_begin_with_the_old_memory_and_not_before() -> None:
    old = begun()
    assert succeed_memory(old, Successor(content="b", valid_from=NOW), id="next", now=at(1))
    with pytest.raises(InvalidInput, match="at or after that of the memory it supersedes"):
        succeed_memory(old, Successor(content="b", valid_from=at(-1)), id="next", now=at(1))


def test_a_change_is_of_what_it_names_and_of_updated_at() -> None:
    old = begun(context="home", tags=["a"])
    changed = change_memory(old, Changes(context=None, tags=["c", "b"]), now=at(1))
    assert changed == msgspec.structs.replace(old, context=None, tags=("b", "c"), updated_at=at(1))


def test_other_fields_of_a_memory_can_be_changed_after_its_time() -> None:
    old = begun(expires_at=at(1).isoformat())
    assert change_memory(old, Changes(importance=0.1), now=at(2)).importance == 0.1
    with pytest.raises(InvalidInput, match="in the future"):
        change_memory(old, Changes(expires_at=at(1)), now=at(2))


def test_what_a_client_could_have_sent_is_taken_from_elsewhere() -> None:
    east = timezone(timedelta(hours=2))
    memory = begun(tags=["a"], metadata={"a": 1})
    elsewhere = msgspec.structs.replace(
        memory, tags=("b", "a", "b"), valid_from=NOW.astimezone(east), valid_to=at(5)
    )
    assert checked_memory(elsewhere) == msgspec.structs.replace(
        memory, tags=("a", "b"), valid_to=at(5)
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""},
        {"content": ""},
        {"tags": ("",)},
        {"importance": 1.1},
        {"title": "a\x00"},
        {"context": "a//b"},
        {"metadata": {"n": 2**63}},
        {"created_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))},
    ],
)
def test_what_a_client_could_not_have_sent_is_refused_from_elsewhere(fields: Any) -> None:
    with pytest.raises(InvalidInput):
        checked_memory(msgspec.structs.replace(begun(), **fields))


def test_relations_are_those_that_were_given() -> None:
    given = [GivenRelation(target="a"), GivenRelation(target="a", relation_type="CAUSES")]
    relations = new_relations(given, "made")
    assert [(each.target, each.relation_type, each.weight) for each in relations] == [
        ("a", "RELATED_TO", 1.0),
        ("a", "CAUSES", 1.0),
    ]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([GivenRelation(target="made")], "to itself"),
        ([GivenRelation(target="a", relation_type="SUPERSEDES")], "SUPERSEDES is made by"),
        ([GivenRelation(target="a"), GivenRelation(target="a", weight=0.5)], "twice"),
    ],
)
def test_relations_that_cannot_be_are_refused(given: list[GivenRelation], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        new_relations(given, "made")


def test_a_relation_between_two_memories_is_fine() -> None:
    check_relation("a", "b", "LIKES")


def test_a_time_that_utc_cannot_have_is_refused() -> None:
    assert in_utc(datetime(2026, 1, 1), "as_of") == datetime(2026, 1, 1, tzinfo=UTC)  # noqa: DTZ001
    first, last = (NOW.replace(year=year, month=1, day=1, hour=0) for year in (1, 9999))
    ahead, behind = (timezone(timedelta(hours=hours)) for hours in (13, -13))
    for time in (
        first.replace(tzinfo=ahead),
        last.replace(month=12, day=31, hour=23, tzinfo=behind),
    ):
        with pytest.raises(InvalidInput, match="within the years 1 to 9999") as refusal:
            in_utc(time, "as_of")
        assert refusal.value.parameter == "as_of"
