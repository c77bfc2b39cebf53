"""Filters and selections as SQL conditions on a row `m` of the table memory.

A condition may be unknown (NULL) where the filter is false: WHERE, AND and OR take both alike, and
NOT is written so that it does too. That leaves comparisons as they are, where indexes serve them.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from service.errors import InvalidFilter
from service.memory.filters import (
    SIGNS,
    All,
    Any_,
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
from service.memory.model import to_microseconds
from service.memory.store import Selection

Parameter = str | int | float | bytes

# SQLite takes 32,766 unless it is built otherwise, and a statement has some of its own.
MAX_PARAMETERS = 32_000

FALSE_BLOB, TRUE_BLOB, NOT_SCALAR_BLOB = b"\x00", b"\x01", b"\x02"


class Condition(NamedTuple):
    """An SQL expression and the values of its question marks."""

    sql: str
    parameters: tuple[Parameter, ...] = ()


TRUE = Condition("TRUE")
FALSE = Condition("FALSE")


def selected(selection: Selection, tenant: int) -> Condition:
    """Whether a row is of the tenant of this number, visible, and passes the filter.

    Raises:
        InvalidFilter: the filter has more values than SQLite takes.
    """
    now = to_microseconds(selection.now)
    parts = [Condition("m.tenant = ?", (tenant,)), unforgotten(now)]
    if selection.as_of is not None:
        as_of = to_microseconds(selection.as_of)
        parts += [valid_at(as_of), unforgotten(as_of)]
    return _checked(_joined("AND", [*parts, _condition(selection.filter, tenant)]))


def numbers_passing(filter_: Filter, tenant: int) -> Condition:
    """A SELECT of the numbers of the tenant's memories that pass the filter.

    Raises:
        InvalidFilter: the filter has more values than SQLite takes.
    """
    takes_null = isinstance(filter_, MetadataIn) and None in filter_.values
    if not takes_null and (listed := _listed(filter_, tenant)):
        return _checked(listed)
    of_tenant = Condition("m.tenant = ?", (tenant,))
    condition = _checked(_joined("AND", [of_tenant, _condition(filter_, tenant)]))
    return Condition(f"SELECT m.n FROM memory m WHERE {condition.sql}", condition.parameters)


def unforgotten(now: int) -> Condition:
    """Whether a row does not expire until after `now`, in microseconds."""
    return Condition("(m.expires_at IS NULL OR m.expires_at > ?)", (now,))


def valid_at(time: int) -> Condition:
    """Whether a row had begun at a time, in microseconds, and was not superseded then."""
    return Condition("m.valid_from <= ? AND (m.valid_to IS NULL OR m.valid_to > ?)", (time, time))


def metadata_parameter(value: str | float | bool) -> Parameter:
    """A scalar as the table metadata has it; no two of different types are equal there."""
    match value:
        case bool():
            return TRUE_BLOB if value else FALSE_BLOB
        case str():
            return value
        case _:
            return float(value)


def _checked(condition: Condition) -> Condition:
    if len(condition.parameters) > MAX_PARAMETERS:
        raise InvalidFilter(
            f"filter: expected at most {MAX_PARAMETERS:,} values in all, got "
            f"{len(condition.parameters):,}"
        )
    return condition


def _condition(filter_: Filter, tenant: int) -> Condition:
    match filter_:
        case TextIn(field, values) | NumberIn(field, values) | TimeIn(field, values):
            return _is_one_of(f"m.{field}", values)
        case NumberCompare(field, comparison, value) | TimeCompare(field, comparison, value):
            return Condition(f"m.{field} {SIGNS[comparison]} ?", (value,))
        case MetadataIn(key, values):
            parts = []
            if listed := _listed(filter_, tenant):
                parts.append(Condition(f"m.n IN ({listed.sql})", listed.parameters))
            if None in values:
                missing = "NOT EXISTS (SELECT 1 FROM metadata WHERE n = m.n AND key = ?)"
                parts.append(Condition(missing, (key,)))
            return _joined("OR", parts)
        case Under(context):
            # "0" is what follows "/".
            return Condition(
                "(m.context = ? OR (m.context >= ? AND m.context < ?))",
                (context, f"{context}/", f"{context}0"),
            )
        case MetadataCompare() | Tagged():
            listed = _listed(filter_, tenant)
            if listed is None:
                return TRUE if filter_ == Tagged("all", ()) else FALSE
            return Condition(f"m.n IN ({listed.sql})", listed.parameters)
        case All(filters):
            return _joined("AND", [_condition(part, tenant) for part in filters])
        case Any_(filters):
            return _joined("OR", [_condition(part, tenant) for part in filters])
        case Not(part):
            inner = _condition(part, tenant)
            if inner in (TRUE, FALSE):
                return FALSE if inner == TRUE else TRUE
            return Condition(f"({inner.sql}) IS NOT TRUE", inner.parameters)


def _is_one_of(column: str, values: Iterable[Parameter | None]) -> Condition:
    distinct = dict.fromkeys(values)
    parts = [Condition(f"{column} IS NULL")] if None in distinct else []
    if given := tuple(value for value in distinct if value is not None):
        parts.append(Condition(f"{column} IN ({marks(given)})", given))
    return _joined("OR", parts)


def _listed(filter_: Filter, tenant: int) -> Condition | None:
    """A SELECT of the numbers of memories that have a tag or a value; None where no table has them.

    Of a metadata filter it gives those that have a value, not those that have null.
    """
    match filter_:
        case Tagged(mode, tags) if tags:
            distinct = tuple(dict.fromkeys(tags))
            every = f" GROUP BY n HAVING count(*) = {len(distinct)}" if mode == "all" else ""
            return Condition(
                f"SELECT n FROM tag WHERE tenant = ? AND tag IN ({marks(distinct)}){every}",
                (tenant, *distinct),
            )
        case MetadataIn(key, values):
            given = {metadata_parameter(value): None for value in values if value is not None}
            if not given:
                return None
            return Condition(
                "SELECT n FROM metadata WHERE tenant = ? AND key = ? "
                f"AND value IN ({marks(given)})",
                (tenant, key, *given),
            )
        case MetadataCompare(key, comparison, value):
            return Condition(
                "SELECT n FROM metadata WHERE tenant = ? AND key = ? "
                f"AND typeof(value) = 'real' AND value {SIGNS[comparison]} ?",
                (tenant, key, value),
            )
        case _:
            return None


def _joined(word: str, parts: Sequence[Condition]) -> Condition:
    neutral, deciding = (TRUE, FALSE) if word == "AND" else (FALSE, TRUE)
    if deciding in parts:
        return deciding
    return _halved(word, [part for part in parts if part != neutral] or [neutral])


def _halved(word: str, parts: Sequence[Condition]) -> Condition:
    # SQLite refuses expressions that are deeper than 1,000, and reads `a AND b AND c` as deep as it
    # is long.
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    first, second = _halved(word, parts[:middle]), _halved(word, parts[middle:])
    return Condition(f"({first.sql}) {word} ({second.sql})", first.parameters + second.parameters)


def marks(values: Collection[object]) -> str:
    """A question mark for each value, separated by commas."""
    return ",".join("?" * len(values))
