from typing import Any

import pytest

from service.api.mem0.filters import our_filter
from service.errors import InvalidFilter
from service.memory.filters import parse_filter


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"user_id": "ada"}, {"user_id": "ada"}),
        ({"run_id": ["a", "b"]}, {"session_id": {"in": ["a", "b"]}}),
        ({"app_id": "*"}, {"metadata.app_id": {"ne": None}}),
        (
            {"NOT": [{"agent_id": "a"}, {"agent_id": "b"}]},
            {"not": {"any": [{"agent_id": "a"}, {"agent_id": "b"}]}},
        ),
        (
            {"OR": [{"x": {"gt": 1}}, {"metadata": {"x": 0}}]},
            {"any": [{"metadata.x": {"gt": 1}}, {"metadata.x": 0}]},
        ),
        ({"categories": {"contains": "food"}}, {"tags": {"any": ["food"]}}),
        ({"categories": {"nin": ["food"]}}, {"not": {"tags": {"any": ["food"]}}}),
        ({"updated_at": {"gt": "2026-01-02"}}, {"updated_at": {"gte": "2026-01-03T00:00:00Z"}}),
        ({"updated_at": {"gte": 0}}, {"updated_at": {"gte": "1970-01-01T00:00:00Z"}}),
        (
            {"expiration_date": {"gt": "2026-12-31"}},
            {"expires_at": {"gt": "2027-01-01T00:00:00Z"}},
        ),
        (
            {"created_at": {"lt": "2026-01-02T03:00:00+03:00"}},
            {"valid_from": {"lt": "2026-01-02T00:00:00Z"}},
        ),
    ],
    ids=str,
)
def test_a_filter_is_ours_in_other_words(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    assert flat(parse_filter(our_filter(theirs))) == flat(parse_filter(ours))


def flat(filter_: Any) -> Any:
    """A filter without objects of one condition only."""
    while (filters := getattr(filter_, "filters", None)) and len(filters) == 1:
        (filter_,) = filters
    name, nested = type(filter_).__name__, getattr(filter_, "filters", None)
    if nested is not None:
        return name, [flat(each) for each in nested]
    if (inner := getattr(filter_, "filter", None)) is not None:
        return name, flat(inner)
    return filter_


def test_nothing_selects_everything() -> None:
    assert our_filter({}) == {"all": []}


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        ([], "filters: expected an object"),
        ({"AND": ["x"]}, r"filters.AND\[0\]: expected an object"),
        ({"user_id": {"icontains": "a"}}, "filters.user_id.icontains: .*parts of texts"),
        ({"keywords": "tea"}, "filters.keywords: .*search finds words"),
        ({"metadata": "tea"}, "filters.metadata: expected an object"),
        ({"categories": {"gt": 1}}, "filters.categories: expected one of"),
        ({"created_at": {"gte": "soon"}}, "filters.created_at: expected seconds"),
        ({"created_at": {"gte": True}}, "filters.created_at: expected seconds"),
        ({"created_at": {"gte": 1e300}}, "filters.created_at: expected seconds"),
        ({"created_at": {"gte": "2026-13-01"}}, "filters.created_at: expected a date"),
        ({"expiration_date": "9999-12-31"}, "filters.expiration_date: expected a date"),
    ],
)
def test_what_ours_cannot_say_is_refused_with_the_place(theirs: Any, reason: str) -> None:
    with pytest.raises(InvalidFilter, match=reason):
        our_filter(theirs)


def test_nesting_has_a_limit() -> None:
    deep: dict[str, Any] = {"user_id": "ada"}
    for _ in range(20):
        deep = {"AND": [deep]}
    with pytest.raises(InvalidFilter, match="levels of nesting"):
        our_filter(deep)
