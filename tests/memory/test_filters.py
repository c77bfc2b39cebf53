import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidFilter
from service.memory.filters import (
    EVERYTHING,
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_VALUES,
    All,
    Any_,
    MetadataIn,
    Not,
    NumberIn,
    Tagged,
    TextIn,
    TimeIn,
    Under,
    matches,
    parse_filter,
)
from service.memory.model import Memory, to_microseconds
from tests.memory.memories import NOW, filter_documents, memories, memory

MEMORIES = memories(st.sampled_from(["id-0", "id-1"]))


def holds(document: dict[str, Any], **fields: Any) -> bool:
    """Whether a filter holds for a memory with these fields."""
    return matches(parse_filter(document), memory(**fields))


def refusal(document: Any) -> str:
    with pytest.raises(InvalidFilter) as refused:
        parse_filter(document)
    assert refused.value.parameter == "filter"
    return str(refused.value)


def nested(depth: int, *, inside: Any, key: str | None = None) -> Any:
    for _ in range(depth):
        inside = [inside] if key is None else {key: inside}
    return inside


def test_the_entries_of_a_filter_must_all_hold() -> None:
    document = {
        "memory_type": "preference",
        "importance": {"gte": 0.5},
        "tags": {"any": ["food", "travel"]},
    }
    fitting: dict[str, Any] = {"memory_type": "preference", "importance": 0.5, "tags": ("travel",)}
    assert holds(document, **fitting)
    for other in ({"memory_type": "note"}, {"importance": 0.49}, {"tags": ("work",)}):
        assert not holds(document, **(fitting | other))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"user_id": "ada", "metadata": {"project": "apollo"}}, True),
        ({"user_id": "bob", "metadata": {"project": "apollo"}}, False),
        ({"user_id": "bob", "metadata": {"project": 7}}, False),
        ({"user_id": "bob", "metadata": {"project": "7"}}, True),
        ({"user_id": "bob"}, True),
    ],
)
def test_conditions_join_with_any_and_not(fields: dict[str, Any], expected: bool) -> None:
    document = {"any": [{"user_id": "ada"}, {"not": {"metadata.project": {"in": ["apollo", 7]}}}]}
    assert holds(document, **fields) is expected


def test_no_conditions_hold_for_everything() -> None:
    assert parse_filter({}) == EVERYTHING
    assert holds({})
    assert holds({"all": []})
    assert not holds({"any": []})
    assert not holds({"user_id": {"in": []}})
    assert not holds({"tags": {"any": []}}, tags=("a",))
    assert holds({"tags": {"all": []}})


def test_a_document_becomes_the_filter_that_it_describes() -> None:
    moment = "2026-05-01T12:00:00Z"
    assert parse_filter({"user_id": "ada"}) == TextIn("user_id", ("ada",))
    assert parse_filter({"user_id": {"ne": None}}) == Not(TextIn("user_id", (None,)))
    assert parse_filter({"importance": 1}) == NumberIn("importance", (1.0,))
    assert parse_filter({"valid_to": {"in": [moment, None]}}) == TimeIn(
        "valid_to", (to_microseconds(NOW), None)
    )
    assert parse_filter({"metadata.a.b": {"in": [1, "1", True, None]}}) == MetadataIn(
        "a.b", (1.0, "1", True, None)
    )
    assert parse_filter({"context": {"under": "/work/x/"}}) == Under("work/x")
    assert parse_filter({"tags": "a"}) == Tagged("any", ("a",))
    assert parse_filter({"tags": {"all": ["b", "a", "b"]}}) == Tagged("all", ("b", "a"))
    assert parse_filter({"any": [{"tags": "a"}, {}]}) == Any_((Tagged("any", ("a",)), All(())))


def test_several_operators_must_all_hold() -> None:
    document = {"importance": {"gt": 0.2, "lt": 0.8, "ne": 0.5}}
    kept = [value for value in (0.2, 0.3, 0.5, 0.8) if holds(document, importance=value)]
    assert kept == [0.3]


@pytest.mark.parametrize(
    ("operator", "expected"),
    [("lt", [-1]), ("lte", [-1, 0]), ("gt", [1]), ("gte", [0, 1])],
)
@pytest.mark.parametrize("field", ["importance", "created_at", "metadata.n"])
def test_comparisons_hold_on_their_side_of_the_value(
    field: str, operator: str, expected: list[int]
) -> None:
    def fields(value: int) -> dict[str, Any]:
        if field == "created_at":
            return {"created_at": NOW + timedelta(microseconds=value)}
        return {"importance": value} if field == "importance" else {"metadata": {"n": value}}

    document = {field: {operator: NOW.isoformat() if field == "created_at" else 0}}
    assert [value for value in (-1, 0, 1) if holds(document, **fields(value))] == expected


@pytest.mark.parametrize("field", ["title", "context", "user_id", "valid_to", "metadata.key"])
def test_a_field_that_is_not_set_equals_null_alone(field: str) -> None:
    value = NOW.isoformat() if field == "valid_to" else "x"
    assert holds({field: None})
    assert holds({field: {"in": [value, None]}})
    assert holds({field: {"ne": value}})
    assert not holds({field: value})
    assert not holds({field: {"ne": None}})


@pytest.mark.parametrize("operator", ["lt", "lte", "gt", "gte"])
def test_no_comparison_holds_with_a_field_that_is_not_set(operator: str) -> None:
    for document in ({"valid_to": {operator: NOW.isoformat()}}, {"metadata.n": {operator: 0}}):
        assert not holds(document)
        assert holds({"not": document})


def test_null_in_metadata_is_as_good_as_no_such_key() -> None:
    assert holds({"metadata.a": None}, metadata={"a": None})
    assert holds({"metadata.a": None}, metadata={})


@pytest.mark.parametrize("value", [1, "1", True, "true", "", 0, False])
def test_a_value_of_another_type_is_another_value(value: Any) -> None:
    others = [1, "1", True, "true", "", 0, False, None]
    equal = [other for other in others if holds({"metadata.a": other}, metadata={"a": value})]
    assert [(type(other), other) for other in equal] == [(type(value), value)]


def test_numbers_are_compared_as_64_bit_floats() -> None:
    assert holds({"metadata.a": 1}, metadata={"a": 1.0})
    assert holds({"metadata.a": 2**53}, metadata={"a": 2**53 + 1})
    assert not holds({"metadata.a": {"gt": 2**53}}, metadata={"a": 2**53 + 1})
    assert holds({"metadata.a": 0}, metadata={"a": -0.0})


def test_lists_and_objects_in_metadata_equal_nothing() -> None:
    for value in ([], [1], {}, {"b": 1}):
        assert not holds({"metadata.a": None}, metadata={"a": value})
        assert not holds({"metadata.a": {"gte": 0}}, metadata={"a": value})
        assert holds({"metadata.a": {"ne": 1}}, metadata={"a": value})


def test_a_metadata_key_is_taken_as_it_is() -> None:
    assert holds({"metadata.a.b": 1}, metadata={"a.b": 1})
    assert not holds({"metadata.a.b": 1}, metadata={"a": {"b": 1}})


def test_strings_are_compared_exactly() -> None:
    for other in ("Ada", "ada ", "", "a\u0308da"):
        assert not holds({"user_id": "ada"}, user_id=other)
    assert not holds({"title": None}, title="")


def test_times_are_compared_to_the_microsecond_in_any_zone() -> None:
    in_tokyo = NOW.astimezone(timezone(timedelta(hours=9))).isoformat()
    assert holds({"created_at": in_tokyo}, created_at=NOW)
    assert holds({"created_at": "2026-05-01T12:00:00"}, created_at=NOW)
    assert not holds({"created_at": in_tokyo}, created_at=NOW + timedelta(microseconds=1))


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("work", True),
        ("work/x", True),
        ("work/x/y", True),
        ("workshop", False),
        ("Work", False),
        ("my/work", False),
        (None, False),
    ],
)
def test_a_context_is_under_itself_and_the_paths_above(context: str | None, expected: bool) -> None:
    for path in ("work", "/work/"):
        assert holds({"context": {"under": path}}, context=context) is expected


def test_tags_are_looked_for_one_by_one() -> None:
    tags = ("a", "b")
    assert holds({"tags": "a"}, tags=tags)
    assert holds({"tags": {"eq": "b"}}, tags=tags)
    assert holds({"tags": {"any": ["x", "b"]}}, tags=tags)
    assert holds({"tags": {"all": ["b", "a"]}}, tags=tags)
    assert not holds({"tags": {"all": ["a", "x"]}}, tags=tags)
    assert not holds({"tags": {"any": ["A", "ab"]}}, tags=tags)
    assert not holds({"tags": {"any": ["a"], "all": ["x"]}}, tags=tags)


@given(first=filter_documents(), second=filter_documents(), subject=MEMORIES)
def test_de_morgan(first: dict[str, Any], second: dict[str, Any], subject: Memory) -> None:
    either = parse_filter({"not": {"any": [first, second]}})
    both = parse_filter({"all": [{"not": first}, {"not": second}]})
    assert matches(either, subject) == matches(both, subject)


@given(document=filter_documents(), subject=MEMORIES)
def test_a_filter_and_its_opposite_are_never_both_true_or_both_false(
    document: dict[str, Any], subject: Memory
) -> None:
    filter_ = parse_filter(document)
    assert matches(filter_, subject) is not matches(Not(filter_), subject)
    assert matches(Not(Not(filter_)), subject) is matches(filter_, subject)


@given(document=filter_documents())
def test_a_filter_survives_json(document: dict[str, Any]) -> None:
    assert parse_filter(json.loads(json.dumps(document))) == parse_filter(document)


@given(subject=MEMORIES, other=MEMORIES)
def test_a_memory_is_found_by_each_of_its_values(subject: Memory, other: Memory) -> None:
    for field in ("id", "title", "memory_type", "context", "user_id", "agent_id", "session_id"):
        document = {field: getattr(subject, field)}
        assert holds_for(document, subject)
        assert holds_for(document, other) == (getattr(other, field) == getattr(subject, field))
    for field in ("created_at", "updated_at", "valid_from", "expires_at"):
        time: datetime | None = getattr(subject, field)
        assert holds_for({field: time and time.isoformat()}, subject)
    assert holds_for({"importance": subject.importance}, subject)
    assert holds_for({"tags": {"all": list(subject.tags)}}, subject)


def holds_for(document: dict[str, Any], subject: Memory) -> bool:
    return matches(parse_filter(document), subject)


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([], "filter: "),
        (None, "filter: "),
        ("user_id", "filter: "),
        ({"content": "tea"}, "filter.content: "),
        ({"metadata": {"a": 1}}, "filter.metadata"),
        ({"metadata.": 1}, "filter.metadata.: "),
        ({"any": [{"importance": "high"}]}, "filter.any[0].importance: "),
        ({"any": {"importance": 1}}, "filter.any: "),
        ({"all": [{}, {"not": {"tags": 7}}]}, "filter.all[1].not.tags: "),
        ({"not": [{"tags": "a"}]}, "filter.not: "),
        ({"user_id": {}}, "filter.user_id: "),
        ({"user_id": 7}, "filter.user_id: "),
        ({"user_id": True}, "filter.user_id: "),
        ({"user_id": ["ada"]}, "filter.user_id: "),
        ({"user_id": {"in": "ada"}}, "filter.user_id.in: "),
        ({"user_id": {"in": ["ada", 7]}}, "filter.user_id.in"),
        ({"user_id": {"like": "a%"}}, "filter.user_id.like: "),
        ({"user_id": {"gt": "a"}}, "filter.user_id.gt: "),
        ({"user_id": {"under": "a"}}, "filter.user_id.under: "),
        ({"context": {"under": "/"}}, "filter.context.under: "),
        ({"context": {"under": None}}, "filter.context.under: "),
        ({"importance": None}, "filter.importance: "),
        ({"importance": True}, "filter.importance: "),
        ({"importance": "0.5"}, "filter.importance: "),
        ({"importance": {"gte": 10**400}}, "filter.importance.gte: "),
        ({"created_at": 1_777_000_000}, "filter.created_at: "),
        ({"created_at": "yesterday"}, "filter.created_at: "),
        ({"created_at": {"lt": None}}, "filter.created_at.lt: "),
        ({"metadata.a": [1]}, "filter.metadata.a: "),
        ({"metadata.a": {"gt": "1"}}, "filter.metadata.a.gt: "),
        ({"metadata.a": {"lte": True}}, "filter.metadata.a.lte: "),
        ({"metadata.a": {"b": 1}}, "filter.metadata.a.b: "),
        ({"tags": ["a"]}, "filter.tags: "),
        ({"tags": {"ne": "a"}}, "filter.tags.ne: "),
        ({"tags": {"any": "a"}}, "filter.tags.any: "),
        ({"tags": {"all": ["a", None]}}, "filter.tags.all"),
    ],
)
def test_what_is_no_filter_is_refused_at_its_place(document: Any, place: str) -> None:
    assert refusal(document).startswith(place)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("field", ["importance", "metadata.a"])
def test_a_number_that_json_does_not_have_is_refused(field: str, value: float) -> None:
    for document in ({field: value}, {field: {"in": [value]}}, {field: {"lt": value}}):
        assert refusal(document).startswith(f"filter.{field}")


def test_filters_nest_to_a_limit() -> None:
    parse_filter(nested(MAX_DEPTH - 1, inside={"user_id": "ada"}, key="not"))
    assert f"at most {MAX_DEPTH} levels" in refusal(nested(MAX_DEPTH, inside={}, key="not"))


@pytest.mark.parametrize("key", ["not", "metadata.a", None])
@pytest.mark.parametrize("depth", [1_000, 10_000])
def test_no_depth_exhausts_the_stack(key: str | None, depth: int) -> None:
    deep = nested(depth, inside={}, key=key)
    for document in (deep, {"user_id": deep}, {"tags": {"any": [deep]}}, {"all": [deep]}):
        assert len(refusal(document)) < 1_000


def test_conditions_have_a_limit() -> None:
    # Each of them is an object and a condition, and they are in one object.
    at_most = [{"user_id": str(number)} for number in range((MAX_CONDITIONS - 1) // 2)]
    parse_filter({"any": at_most})
    assert f"at most {MAX_CONDITIONS} conditions" in refusal({"any": [*at_most, {"tags": "a"}]})
    assert "at most" in refusal({"any": at_most * 40})


@pytest.mark.parametrize("empty", [{}, {"any": []}, {"not": {}}])
def test_filters_without_conditions_have_the_same_limit(empty: dict[str, Any]) -> None:
    assert "at most" in refusal({"any": [{"any": [empty] * 500}] * 500})


def test_values_have_a_limit() -> None:
    parse_filter({"user_id": {"in": ["ada"] * MAX_VALUES}})
    for values in (MAX_VALUES + 1, 10**6):
        for document in ({"user_id": {"in": ["ada"] * values}}, {"tags": {"any": ["a"] * values}}):
            assert f"at most {MAX_VALUES:,} values, got {values:,}" in refusal(document)


def test_messages_stay_short() -> None:
    long = "x" * 10**6
    for document in ({long: 1}, {"user_id": {long: 1}}, {"importance": long}, [long]):
        assert len(refusal(document)) < 500


def test_the_ends_of_time_can_be_named() -> None:
    for given_time in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"):
        assert holds({"created_at": given_time}, created_at=datetime.fromisoformat(given_time))


@pytest.mark.parametrize("given_time", ["9999-12-31T23:59:60Z", "10000-01-01T00:00:00Z"])
def test_a_time_beyond_the_ends_of_time_is_refused(given_time: str) -> None:
    assert refusal({"created_at": given_time}).startswith("filter.created_at: ")


def test_a_huge_number_in_metadata_is_no_error() -> None:
    assert not holds({"metadata.a": 1}, metadata={"a": 10**400})
