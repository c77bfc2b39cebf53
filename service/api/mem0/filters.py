"""mem0's filters in our filter language.

    {"AND": [{"user_id": "ada"}, {"created_at": {"gte": "2026-01-01"}}]}

What cannot be said in ours is refused.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import msgspec

from service.errors import InvalidFilter
from service.memory.new_memory import optional_in_utc

# What mem0 has as fields and ours has not, metadata has.
APP_ID = "app_id"
ROLE = "role"
ACTOR_ID = "actor_id"
FIRST_ID = "mem0_id"
IN_METADATA = (APP_ID, ROLE, ACTOR_ID, FIRST_ID)

ENTITY_FIELDS = {
    "user_id": "user_id",
    "agent_id": "agent_id",
    "run_id": "session_id",
    "app_id": f"metadata.{APP_ID}",
}
# What there is created is here valid from then on: an update there makes a new version here.
TIME_FIELDS = {
    "created_at": "valid_from",
    "timestamp": "valid_from",
    "updated_at": "updated_at",
    "expiration_date": "expires_at",
}
NOT_KEPT = {
    "keywords": "search finds words",
    "feedback": "there is no feedback here",
}

ANY = "*"
MAX_DEPTH = 16
DAY = timedelta(days=1)

Ours = dict[str, Any]


def our_filter(given: Any, place: str = "filters", depth: int = 1) -> Ours:
    """The filter in our language.

    Raises:
        InvalidFilter: it is not a filter, or ours has nothing like it; the message names the place.
    """
    if not isinstance(given, dict):
        raise InvalidFilter(f"{place}: expected an object")
    if depth > MAX_DEPTH:
        raise InvalidFilter(f"{place[:100]}…: expected at most {MAX_DEPTH} levels of nesting")
    return {"all": list(_parts(given, place, depth))}


def end_of(day: date) -> datetime:
    """When a day is over: from then on what expires on it is forgotten."""
    return datetime.combine(day, time(), UTC) + DAY


def day_of(given: Any, place: str) -> date:
    """A date such as 2026-12-31.

    Raises:
        InvalidFilter: it is not one, or the last that there is.
    """
    try:
        day = date.fromisoformat(given)
        if day < date.max:
            return day
    except (TypeError, ValueError):
        pass
    raise InvalidFilter(f"{place}: expected a date such as 2026-12-31")


def moment_of(given: Any, place: str) -> datetime:
    """A time: seconds since 1970, or as ISO 8601 writes it; without a zone it is in UTC.

    Raises:
        InvalidFilter: it is neither.
    """
    try:
        if isinstance(given, int | float) and not isinstance(given, bool):
            return datetime.fromtimestamp(given, UTC)
        moment = optional_in_utc(msgspec.convert(given, datetime), place)
        assert moment is not None
        return moment
    except (ValueError, OverflowError, OSError):
        raise InvalidFilter(
            f"{place}: expected seconds since 1970, or a time such as 2026-12-31T18:00:00Z"
        ) from None


def _parts(given: dict[str, Any], place: str, depth: int) -> Iterator[Ours]:
    for name, value in given.items():
        at = f"{place}.{name[:100]}"
        match name:
            case "AND" | "OR" | "NOT":
                nested = value if isinstance(value, list) else [value]
                parts = [
                    our_filter(each, f"{at}[{index}]", depth + 1)
                    for index, each in enumerate(nested)
                ]
                ours: dict[str, Ours] = {
                    "AND": {"all": parts},
                    "OR": {"any": parts},
                    "NOT": {"not": {"any": parts}},
                }
                yield ours[name]
            case "metadata":
                if not isinstance(value, dict):
                    raise InvalidFilter(f"{at}: expected an object")
                for key, wanted in value.items():
                    yield from _conditions(f"metadata.{key}", wanted, at)
            case "categories":
                yield from _tagged(value, at)
            case "id" | "memory_ids":
                wanted = value if isinstance(value, dict) else {"in": _listed(value)}
                yield {
                    "any": [
                        {"all": list(_conditions(field, wanted, at))}
                        for field in ("id", f"metadata.{FIRST_ID}")
                    ]
                }
            case _ if name in TIME_FIELDS:
                yield from _timed(name, value, at)
            case _ if name in NOT_KEPT:
                raise InvalidFilter(f"{at}: cannot be filtered by here; {NOT_KEPT[name]}")
            case _:
                yield from _conditions(ENTITY_FIELDS.get(name, f"metadata.{name}"), value, at)


def _conditions(field: str, value: Any, place: str) -> Iterator[Ours]:
    for operator, operand in _operators(value).items():
        match operator:
            case "eq" | "ne" if operand == ANY:
                yield {field: {"ne" if operator == "eq" else "eq": None}}
            case "eq" | "ne" | "gt" | "gte" | "lt" | "lte":
                yield {field: {operator: operand}}
            case "in":
                yield {field: {"in": _listed(operand)}}
            case "nin":
                yield {"not": {field: {"in": _listed(operand)}}}
            case _:
                raise InvalidFilter(
                    f"{place}.{operator[:100]}: expected one of eq, ne, in, nin, gt, gte, lt, lte; "
                    "parts of texts cannot be filtered by here"
                )


def _tagged(value: Any, place: str) -> Iterator[Ours]:
    for operator, operand in _operators(value).items():
        match operator:
            case "eq" | "in" | "contains":
                yield {"tags": {"any": _listed(operand)}}
            case "ne" | "nin":
                yield {"not": {"tags": {"any": _listed(operand)}}}
            case _:
                raise InvalidFilter(f"{place}: expected one of eq, ne, in, nin and contains")


def _timed(name: str, value: Any, place: str) -> Iterator[Ours]:
    field = TIME_FIELDS[name]
    for operator, operand in _operators(value).items():
        if operand == ANY:
            yield from _conditions(field, {operator: operand}, place)
        elif name == "expiration_date":
            expiry = end_of(day_of(operand, place)).isoformat()
            yield from _conditions(field, {operator: expiry}, place)
        elif isinstance(operand, str) and len(operand) == len("2026-12-31"):
            yield from _on_day(field, operator, day_of(operand, place), place)
        else:
            moment = moment_of(operand, place).isoformat()
            yield from _conditions(field, {operator: moment}, place)


def _on_day(field: str, operator: str, day: date, place: str) -> Iterator[Ours]:
    """A comparison with a date, which stands for all of that day."""
    begin, end = (end_of(day) - DAY).isoformat(), end_of(day).isoformat()
    match operator:
        case "eq":
            yield {field: {"gte": begin, "lt": end}}
        case "ne":
            yield {"not": {field: {"gte": begin, "lt": end}}}
        case "gt":
            yield {field: {"gte": end}}
        case "lte":
            yield {field: {"lt": end}}
        case _:
            yield from _conditions(field, {operator: begin}, place)


def _operators(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    return {"in": value} if isinstance(value, list) else {"eq": value}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
