"""Selections and filters in Cypher: what they say as predicates on the node `m`.

Values are parameters always. Metadata keys, which clients choose, are values too: the names of
properties are never removed from a database.
"""

from typing import Any, NamedTuple

from service.memory.filters import (
    SIGNS,
    All,
    Any_,
    ComparisonOperator,
    Filter,
    MetadataCompare,
    MetadataIn,
    Not,
    NumberCompare,
    NumberIn,
    Tagged,
    TextIn,
    TimeCompare,
    TimeIn,
    Under,
)
from service.memory.model import NEVER, to_microseconds
from service.memory.store import Selection

# The vector index keeps these with each embedding, and a search can ask for them.
SEARCHABLE_FIELDS = (
    "tenant",
    "memory_type",
    "context",
    "user_id",
    "agent_id",
    "session_id",
    "importance",
    "created_at",
    "updated_at",
    "valid_from",
    "valid_to",
    "expires_at",
)

# Kept as NEVER where they are not set.
OPEN_TIMES = ("valid_to", "expires_at")


class Predicate(NamedTuple):
    """A condition on `m`, true or not, and the values of its parameters."""

    text: str
    parameters: dict[str, Any]


def metadata_entry(key: str, value: str | float | bool) -> str:
    """A key with its value as one string; different for different ones.

    Equal numbers, such as 1 and 1.0, and 0.0 and -0.0, are the same value.
    """
    match value:
        case bool():
            told = f"b{value}"
        case str():
            told = f"s{value}"
        case _:
            told = f"n{float(value) + 0.0!r}"
    return f"{len(key)}:{key}{told}"


def selection_predicate(selection: Selection) -> Predicate:
    """That `m` is selected."""
    made = _Cypher()
    return Predicate(
        " AND ".join([*_visible(made, selection), made.of(selection.filter)]), made.values
    )


def filter_predicate(tenant: str, filter_: Filter) -> Predicate:
    """That `m` is of this tenant and passes the filter, whenever it is valid."""
    made = _Cypher()
    return Predicate(f"m.tenant = {made.value(tenant)} AND {made.of(filter_)}", made.values)


def searchable_predicate(selection: Selection) -> tuple[Predicate, bool]:
    """What the vector index itself can be asked of the selection, and whether that is all of it.

    For each property it takes a value, or values, or one bound on each side.
    """
    made = _Cypher()
    asked = _visible(made, selection)
    taken = {("tenant", "value"), ("expires_at", ">")}
    if selection.as_of is not None:
        taken |= {("valid_from", "<"), ("valid_to", ">")}
    complete = True
    for part in _conjuncts(selection.filter):
        needed = {(field, side) for field, side in _sides(part)}
        blocked = {(field, "value") for field, _ in needed} | needed
        if any(side == "value" for _, side in needed):
            blocked |= {(field, side) for field, _ in needed for side in "<>"}
        if needed and not blocked & taken:
            taken |= needed
            asked.append(made.of(part))
        else:
            complete = False
    return Predicate(" AND ".join(asked), made.values), complete


def _visible(made: "_Cypher", selection: Selection) -> list[str]:
    times = [time for time in (selection.now, selection.as_of) if time is not None]
    conditions = [
        f"m.tenant = {made.value(selection.tenant)}",
        f"m.expires_at > {made.value(to_microseconds(max(times)))}",
    ]
    if selection.as_of is not None:
        as_of = made.value(to_microseconds(selection.as_of))
        conditions += [f"m.valid_from <= {as_of}", f"m.valid_to > {as_of}"]
    return conditions


def _conjuncts(filter_: Filter) -> list[Filter]:
    if isinstance(filter_, All):
        return [conjunct for part in filter_.filters for conjunct in _conjuncts(part)]
    return [filter_]


def _sides(filter_: Filter) -> list[tuple[str, str]]:
    """What the filter asks of a property, its value or a bound; nothing if no index knows it."""
    match filter_:
        case TextIn(field, values) if field in SEARCHABLE_FIELDS:
            # All that are set, or all that are not: nothing is asked with OR.
            return (
                [(field, "value")]
                if values and (None not in values or set(values) == {None})
                else []
            )
        case NumberIn(field, values) if values:
            return [(field, "value")]
        case TimeIn(field, values) if _kept_times(field, values):
            return [(field, "value")]
        case NumberCompare(field, comparison, _):
            return [(field, SIGNS[comparison][0])]
        case TimeCompare(field, comparison, _):
            sides = {SIGNS[comparison][0]} | ({"<"} if field in OPEN_TIMES else set())
            return [(field, side) for side in sides]
        case _:
            return []


class _Cypher:
    """Writes predicates and gathers the values of their parameters."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def value(self, value: Any) -> str:
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f"${name}"

    def of(self, filter_: Filter) -> str:
        """The predicate; null, where it is about what is not set, counts as false."""
        match filter_:
            case TextIn(field, values):
                return self._text_in(field, values)
            case NumberIn(field, values):
                return f"m.{field} IN {self.value(list(values))}"
            case TimeIn(field, values):
                return f"m.{field} IN {self.value(_kept_times(field, values))}"
            case NumberCompare(field, comparison, value):
                return f"m.{field} {SIGNS[comparison]} {self.value(value)}"
            case TimeCompare(field, comparison, value):
                return self._time_compare(field, comparison, value)
            case MetadataIn(key, values):
                return self._metadata_in(key, values)
            case MetadataCompare(key, comparison, value):
                at = "m.metadata_numbers[i]"
                return (
                    "any(i IN range(0, size(m.metadata_numbers) - 1) "
                    f"WHERE m.metadata_number_keys[i] = {self.value(key)} "
                    f"AND {at} {SIGNS[comparison]} {self.value(value)})"
                )
            case Under(context):
                below = self.value(f"{context}/")
                return f"(m.context = {self.value(context)} OR m.context STARTS WITH {below})"
            case Tagged(mode, tags):
                return f"{mode}(tag IN {self.value(list(tags))} WHERE tag IN m.tags)"
            case All(filters):
                return self._joined("AND", filters) if filters else "true"
            case Any_(filters):
                return self._joined("OR", filters) if filters else "false"
            case Not(part):
                # AND and OR take null for false as far as a WHERE can see; NOT does not.
                return f"NOT coalesce({self.of(part)}, false)"

    def _joined(self, word: str, filters: tuple[Filter, ...]) -> str:
        return "(" + f" {word} ".join(self.of(part) for part in filters) + ")"

    def _text_in(self, field: str, values: tuple[str | None, ...]) -> str:
        texts = [value for value in values if value is not None]
        among = f"m.{field} IN {self.value(texts)}"
        if None not in values:
            return among
        return f"(m.{field} IS NULL OR {among})" if texts else f"m.{field} IS NULL"

    def _time_compare(self, field: str, comparison: ComparisonOperator, time: int) -> str:
        if field in OPEN_TIMES and comparison in ("lt", "lte"):
            # One bound, below NEVER, which is no time.
            bound = min(time, NEVER) if comparison == "lt" else min(time + 1, NEVER)
            return f"m.{field} < {self.value(bound)}"
        compared = f"m.{field} {SIGNS[comparison]} {self.value(time)}"
        return f"{compared} AND m.{field} < {NEVER}" if field in OPEN_TIMES else compared

    def _metadata_in(self, key: str, values: tuple[str | float | bool | None, ...]) -> str:
        entries = [metadata_entry(key, value) for value in values if value is not None]
        among = f"any(entry IN {self.value(entries)} WHERE entry IN m.metadata_entries)"
        if None not in values:
            return among
        return f"(NOT {self.value(key)} IN m.metadata_keys OR {among})"


def _kept_times(field: str, values: tuple[int | None, ...]) -> list[int]:
    times = [value for value in values if value is not None and value != NEVER]
    return [*times, NEVER] if None in values and field in OPEN_TIMES else times
