"""The filter language: which memories a request is about, with one meaning on every store.

    {"memory_type": "preference", "importance": {"gte": 0.5}, "tags": {"any": ["food", "travel"]}}
    {"any": [{"user_id": "ada"}, {"not": {"metadata.project": {"in": ["apollo", 7]}}}]}

A filter is an object whose entries must all hold. An entry is a field with a value it must equal, a
field with an object of operators that must all hold, or one of `all`, `any` and `not`.

Every condition is true or false, never unknown: a field that is not set equals null, and no
comparison with it holds; `ne` is exactly the opposite of `eq`. Strings are compared exactly,
numbers as 64-bit floats, times to the microsecond. A value of another type is another value: 1 is
neither "1" nor true.
"""

import math
import operator
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from service.errors import InvalidFilter
from service.memory.model import Memory, to_microseconds

TextField = Literal["id", "title", "memory_type", "context", "user_id", "agent_id", "session_id"]
NumberField = Literal["importance"]
TimeField = Literal["created_at", "updated_at", "valid_from", "valid_to", "expires_at"]
ComparisonOperator = Literal["lt", "lte", "gt", "gte"]

TEXT_FIELDS: tuple[TextField, ...] = (
    "id",
    "title",
    "memory_type",
    "context",
    "user_id",
    "agent_id",
    "session_id",
)
NUMBER_FIELDS: tuple[NumberField, ...] = ("importance",)
TIME_FIELDS: tuple[TimeField, ...] = (
    "created_at",
    "updated_at",
    "valid_from",
    "valid_to",
    "expires_at",
)
METADATA = "metadata."

MAX_DEPTH = 16
MAX_CONDITIONS = 512  # counting `all`, `any`, `not` and objects, too
MAX_VALUES = 4_096  # in all lists of a filter together

# As SQL and Cypher write them.
SIGNS: dict[ComparisonOperator, str] = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
COMPARISONS: dict[ComparisonOperator, Callable[[float, float], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}


class TextIn(msgspec.Struct, frozen=True):
    """The text is one of these; None among them stands for a field that is not set."""

    field: TextField
    values: tuple[str | None, ...]


class NumberIn(msgspec.Struct, frozen=True):
    """The number is one of these."""

    field: NumberField
    values: tuple[float, ...]


class TimeIn(msgspec.Struct, frozen=True):
    """The time, in microseconds, is one of these; None stands for a field that is not set."""

    field: TimeField
    values: tuple[int | None, ...]


class MetadataIn(msgspec.Struct, frozen=True):
    """What metadata has under this key is one of these; None stands for null and for no such key.

    Numbers are floats here; a bool is not a number.
    """

    key: str
    values: tuple[str | float | bool | None, ...]


class NumberCompare(msgspec.Struct, frozen=True):
    """The number is on this side of the value."""

    field: NumberField
    operator: ComparisonOperator
    value: float


class TimeCompare(msgspec.Struct, frozen=True):
    """The time is set, and on this side of the value, in microseconds."""

    field: TimeField
    operator: ComparisonOperator
    value: int


class MetadataCompare(msgspec.Struct, frozen=True):
    """What metadata has under this key is a number, and on this side of the value."""

    key: str
    operator: ComparisonOperator
    value: float


class Under(msgspec.Struct, frozen=True):
    """The context is this path, or one below it."""

    context: str


class Tagged(msgspec.Struct, frozen=True):
    """The memory has one of these tags, or all of them."""

    mode: Literal["any", "all"]
    tags: tuple[str, ...]


class All(msgspec.Struct, frozen=True):
    """Every one of these holds; true of none."""

    filters: "tuple[Filter, ...]"


class Any_(msgspec.Struct, frozen=True):
    """One of these holds at least; false of none."""

    filters: "tuple[Filter, ...]"


class Not(msgspec.Struct, frozen=True):
    """It does not hold."""

    filter: "Filter"


Filter: TypeAlias = (
    TextIn
    | NumberIn
    | TimeIn
    | MetadataIn
    | NumberCompare
    | TimeCompare
    | MetadataCompare
    | Under
    | Tagged
    | All
    | Any_
    | Not
)

EVERYTHING = All(())


def parse_filter(given: Any, place: str = "filter") -> Filter:
    """The filter that a decoded JSON document describes; errors name the place in it.

    Raises:
        InvalidFilter: it is not a filter.
    """
    return _Parser().parse(given, place, depth=1)


def matches(filter_: Filter, memory: Memory) -> bool:
    """Whether the filter holds for a memory: the meaning that every store must agree with."""
    match filter_:
        case TextIn(field, values) | NumberIn(field, values):
            return getattr(memory, field) in values
        case TimeIn(field, values):
            return _time(memory, field) in values
        case MetadataIn(key, values):
            found = _scalar(memory.metadata.get(key))
            return any(found == value and type(found) is type(value) for value in values)
        case NumberCompare(field, comparison, value):
            return COMPARISONS[comparison](getattr(memory, field), value)
        case TimeCompare(field, comparison, value):
            time = _time(memory, field)
            return time is not None and COMPARISONS[comparison](time, value)
        case MetadataCompare(key, comparison, value):
            found = _scalar(memory.metadata.get(key))
            return isinstance(found, float) and COMPARISONS[comparison](found, value)
        case Under(context):
            return f"{memory.context or ''}/".startswith(f"{context}/")
        case Tagged(mode, tags):
            found_tags = [tag in memory.tags for tag in tags]
            return any(found_tags) if mode == "any" else all(found_tags)
        case All(filters):
            return all(matches(part, memory) for part in filters)
        case Any_(filters):
            return any(matches(part, memory) for part in filters)
        case Not(part):
            return not matches(part, memory)


def _time(memory: Memory, field: TimeField) -> int | None:
    time: datetime | None = getattr(memory, field)
    return None if time is None else to_microseconds(time)


_NOT_COMPARABLE = object()  # lists and objects equal nothing


def _scalar(value: Any) -> Any:
    match value:
        case None | bool() | str():
            return value
        case int() | float():
            try:
                return float(value)
            except OverflowError:
                return _NOT_COMPARABLE
        case _:
            return _NOT_COMPARABLE


class _Parser:
    def __init__(self) -> None:
        self._conditions = 0
        self._values = 0

    def parse(self, given: Any, place: str, depth: int) -> Filter:
        self._count(place)
        if depth > MAX_DEPTH:
            raise InvalidFilter(f"{place[:100]}…: expected at most {MAX_DEPTH} levels of nesting")
        if not isinstance(given, dict):
            raise InvalidFilter(f"{place}: expected an object, got {_shown(given)}")
        parts: list[Filter] = []
        for name, value in given.items():
            at = f"{place}.{name}" if len(name) <= 100 else f"{place}.{name[:100]}…"
            match name:
                case "all" | "any":
                    nested = [
                        self.parse(part, f"{at}[{index}]", depth + 1)
                        for index, part in enumerate(_items(value, at))
                    ]
                    parts.append((All if name == "all" else Any_)(tuple(nested)))
                case "not":
                    parts.append(Not(self.parse(value, at, depth + 1)))
                case _:
                    parts += self._conditions_on(name, value, at)
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _conditions_on(self, name: str, value: Any, place: str) -> Iterator[Filter]:
        operators = value if isinstance(value, dict) else {"eq": value}
        if not operators:
            raise InvalidFilter(f"{place}: expected a value or operators, got an empty object")
        for operator_name, operand in operators.items():
            self._count(place)
            if isinstance(operand, list):
                self._values += len(operand)
                if self._values > MAX_VALUES:
                    raise InvalidFilter(
                        f"{place}: expected at most {MAX_VALUES:,} values, got {self._values:,}"
                    )
            at = f"{place}.{operator_name[:100]}" if isinstance(value, dict) else place
            yield _condition(name, operator_name, operand, at)

    def _count(self, place: str) -> None:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise InvalidFilter(
                f"{place[:100]}: expected at most {MAX_CONDITIONS} conditions and objects"
            )


def _condition(name: str, operator_name: str, operand: Any, place: str) -> Filter:
    if name == "tags":
        return _tagged(operator_name, operand, place)
    if name == "context" and operator_name == "under":
        return Under(_path(operand, place))
    match operator_name:
        case "eq":
            return _in(name, [operand], place)
        case "ne":
            return Not(_in(name, [operand], place))
        case "in":
            return _in(name, _items(operand, place), place)
        case "lt" | "lte" | "gt" | "gte":
            return _compare(name, operator_name, operand, place)
        case _:
            allowed = "eq, ne, in, lt, lte, gt, gte" + (", under" if name == "context" else "")
            raise InvalidFilter(f"{place}: expected one of the operators {allowed}")


def _in(name: str, operands: list[Any], place: str) -> Filter:
    if name in TEXT_FIELDS:
        return TextIn(name, tuple(_text_or_null(operand, place) for operand in operands))
    if name in NUMBER_FIELDS:
        return NumberIn(name, tuple(_number(operand, place) for operand in operands))
    if name in TIME_FIELDS:
        return TimeIn(
            name,
            tuple(None if operand is None else _moment(operand, place) for operand in operands),
        )
    key = _metadata_key(name, place)
    return MetadataIn(key, tuple(_metadata_value(operand, place) for operand in operands))


def _compare(name: str, comparison: ComparisonOperator, operand: Any, place: str) -> Filter:
    if name in NUMBER_FIELDS:
        return NumberCompare(name, comparison, _number(operand, place))
    if name in TIME_FIELDS:
        return TimeCompare(name, comparison, _moment(operand, place))
    if name in TEXT_FIELDS:
        raise InvalidFilter(f"{place}: text has no order here; expected eq, ne or in")
    return MetadataCompare(_metadata_key(name, place), comparison, _number(operand, place))


def _tagged(operator_name: str, operand: Any, place: str) -> Tagged:
    match operator_name:
        case "eq":
            return Tagged("any", (_text(operand, place),))
        case "any" | "all":
            tags = (_text(tag, place) for tag in _items(operand, place))
            return Tagged(operator_name, tuple(dict.fromkeys(tags)))
        case _:
            raise InvalidFilter(f"{place}: expected a tag, or one of the operators any and all")


def _metadata_key(name: str, place: str) -> str:
    if name.startswith(METADATA) and len(name) > len(METADATA):
        return name.removeprefix(METADATA)
    fields = ", ".join((*TEXT_FIELDS, *NUMBER_FIELDS, *TIME_FIELDS))
    raise InvalidFilter(
        f"{place}: there is no such field; expected one of {fields}, tags, metadata.<key>, all, "
        "any, not"
    )


def _items(given: Any, place: str) -> list[Any]:
    if not isinstance(given, list):
        raise InvalidFilter(f"{place}: expected a list, got {_shown(given)}")
    return given


def _text(given: Any, place: str) -> str:
    if not isinstance(given, str):
        raise InvalidFilter(f"{place}: expected a string, got {_shown(given)}")
    return given


def _text_or_null(given: Any, place: str) -> str | None:
    return None if given is None else _text(given, place)


def _path(given: Any, place: str) -> str:
    if not (path := _text(given, place).strip("/")):
        raise InvalidFilter(f"{place}: expected a path such as work/projects")
    return path


def _number(given: Any, place: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InvalidFilter(f"{place}: expected a number, got {_shown(given)}")
    try:
        number = float(given)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidFilter(f"{place}: expected a number within 64-bit floats")
    return number


def _metadata_value(given: Any, place: str) -> str | float | bool | None:
    if given is None or isinstance(given, bool | str):
        return given
    if isinstance(given, int | float):
        return _number(given, place)
    raise InvalidFilter(f"{place}: expected a string, number, true, false or null")


def _moment(given: Any, place: str) -> int:
    try:
        time = msgspec.convert(given, datetime)
        return to_microseconds(time.replace(tzinfo=time.tzinfo or UTC))
    except (msgspec.ValidationError, OverflowError):
        raise InvalidFilter(
            f"{place}: expected a time such as 2026-11-22T18:00:00Z, got {_shown(given)}"
        ) from None


def _shown(given: Any) -> str:
    if isinstance(given, dict | list):
        return "an object" if isinstance(given, dict) else "a list"
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:60]}…"
