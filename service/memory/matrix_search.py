"""Finds the memories nearest to an embedding in a view of the matrix: filters, then an exact scan.

The codes say within known bounds how near each memory is. Those that can be among the nearest by
these bounds are compared by their embeddings, so the answer is that of comparing all embeddings.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numkong
import numpy as np
import numpy.typing as npt

from service.memory.filters import (
    COMPARISONS,
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
from service.memory.matrix import TEXT_COLUMNS, UNSET, View, coded
from service.memory.model import Embedding, to_microseconds
from service.memory.store import SIMILARITY_DECIMALS, Selection

Mask = npt.NDArray[np.bool_]  # (memories,)
Numbers = npt.NDArray[np.int64]  # (memories,)
Floats = npt.NDArray[np.float64]

# The numbers of the memories that a filter of one condition holds for, where the matrix does not
# have the field.
FindNumbers = Callable[[Filter], Numbers]
# The embeddings of the memories of these numbers, in order: (memories, dimensions).
ReadEmbeddings = Callable[[Numbers], npt.NDArray[np.float32]]

# numkong differs from the cosine of two codes by up to 1e-7, a float32 sum by up to 1e-6.
_ARITHMETIC = 2e-6
# What two similarities that are equal after rounding differ by at most.
_ROUNDING = 10.0**-SIMILARITY_DECIMALS

# Reading fewer embeddings than this at once is no faster.
_FEWEST_READ = 50
# How many embeddings are in memory at once.
_MOST_READ = 1_024

# Below this share of all rows, copying the rows that are wanted is faster than scanning the others.
_SCATTERED = 1 / 3


def selected_rows(view: View, selection: Selection, find_numbers: FindNumbers) -> Numbers:
    """The rows of the view that are visible and pass the filter."""
    columns = view.columns
    mask = view.alive & (columns["expires_at"] > to_microseconds(selection.now))
    if selection.as_of is not None:
        as_of = to_microseconds(selection.as_of)
        mask &= columns["valid_from"] <= as_of
        mask &= (columns["valid_to"] > as_of) & (columns["expires_at"] > as_of)
    mask &= _mask(selection.filter, view, find_numbers)
    return np.flatnonzero(mask)


def nearest(
    view: View,
    rows: Numbers,
    embedding: Embedding,
    *,
    limit: int,
    read_embeddings: ReadEmbeddings,
) -> tuple[Numbers, Floats]:
    """Rows with their similarities: the `limit` nearest, and all that are as near as the last.

    The highest similarity is first, and of equals the newer.
    """
    if len(rows) > max(limit, _FEWEST_READ):
        rows = _compare_codes(view, rows, embedding, limit)
        rows, lower, upper = _compare_exact_query(view, rows, embedding, limit)
        order = np.argsort(-lower)
        rows, upper = rows[order], upper[order]
    else:
        upper = np.ones(len(rows))
    first = max(limit, _FEWEST_READ)
    similarities = _similarities(view, rows[:first], embedding, read_embeddings)
    if len(rows) > first:
        possible = upper[first:] >= _highest(similarities, limit) - _ROUNDING
        others = rows[first:][possible]
        rows = np.concatenate([rows[:first], others])
        more = _similarities(view, others, embedding, read_embeddings)
        similarities = np.concatenate([similarities, more])
    created = view.columns["created_at"][rows]
    order = np.lexsort((-created, -similarities))
    if len(order) > limit:
        last = order[limit - 1]
        at_least = (similarities > similarities[last]) | (
            (similarities == similarities[last]) & (created >= created[last])
        )
        order = order[: np.count_nonzero(at_least)]
    return rows[order], similarities[order]


def _compare_codes(view: View, rows: Numbers, embedding: Embedding, limit: int) -> Numbers:
    query, deviations = coded(embedding[np.newaxis])
    if len(rows) < _SCATTERED * len(view.codes):
        distances = numkong.cdist(query, view.codes[rows], "angular")
        similarities = 1 - np.asarray(distances)[0]
    else:
        distances = numkong.cdist(query, view.codes, "angular")
        similarities = 1 - np.asarray(distances)[0][rows]
    deviation = view.columns["deviation"][rows]
    floor = _highest(similarities - deviation, limit) - 2 * float(deviations[0]) - _ARITHMETIC
    possible: Mask = similarities + deviation >= floor
    return rows[possible]


def _compare_exact_query(
    view: View, rows: Numbers, embedding: Embedding, limit: int
) -> tuple[Numbers, Floats, Floats]:
    query = embedding / np.linalg.norm(embedding)
    similarities = np.empty(len(rows))
    for start in range(0, len(rows), _MOST_READ):
        codes = view.codes[rows[start : start + _MOST_READ]].astype(np.float32)
        lengths = np.sqrt(np.einsum("ij,ij->i", codes, codes))
        similarities[start : start + _MOST_READ] = codes @ query / lengths
    deviation = view.columns["deviation"][rows]
    lower = similarities - deviation - _ARITHMETIC
    upper = similarities + deviation + _ARITHMETIC
    possible = upper >= _highest(lower, limit)
    return rows[possible], lower[possible], upper[possible]


def _similarities(
    view: View, rows: Numbers, embedding: Embedding, read_embeddings: ReadEmbeddings
) -> Floats:
    query = embedding.astype(np.float64)
    query /= np.linalg.norm(query)
    similarities = np.empty(len(rows))
    for start in range(0, len(rows), _MOST_READ):
        numbers = view.columns["n"][rows[start : start + _MOST_READ]]
        embeddings = read_embeddings(numbers).astype(np.float64)
        lengths = np.linalg.norm(embeddings, axis=1)
        similarities[start : start + _MOST_READ] = embeddings @ query / lengths
    # Adding zero makes 0 of -0.
    return np.clip(np.round(similarities, SIMILARITY_DECIMALS), -1, 1) + 0.0


def _highest(values: npt.NDArray[Any], count: int) -> float:
    place = len(values) - count
    return float(np.partition(values, place)[place])


def _mask(filter_: Filter, view: View, find_numbers: FindNumbers) -> Mask:
    columns = view.columns
    match filter_:
        case TextIn(field, values) if field in TEXT_COLUMNS:
            return _is_one_of(columns[field], view.names[field].known(values))
        case NumberIn(field, values):
            return _is_one_of(columns[field], values)
        case TimeIn(field, values):
            times = [UNSET if value is None else value for value in values]
            return _is_one_of(columns[field], times)
        case NumberCompare(field, comparison, value):
            return _compared(columns[field], comparison, value)
        case TimeCompare(field, comparison, value):
            is_set: Mask = columns[field] != UNSET
            return _compared(columns[field], comparison, value) & is_set
        case Under(context):
            contexts = enumerate(list(view.names["context"].names))
            below = [n for n, name in contexts if f"{name or ''}/".startswith(f"{context}/")]
            return _is_one_of(columns["context"], below)
        case All(filters):
            mask = np.ones(len(view.alive), np.bool_)
            for part in filters:
                mask &= _mask(part, view, find_numbers)
            return mask
        case Any_(filters):
            mask = np.zeros(len(view.alive), np.bool_)
            for part in filters:
                mask |= _mask(part, view, find_numbers)
            return mask
        case Not(part):
            return ~_mask(part, view, find_numbers)
        case TextIn() | MetadataIn() | MetadataCompare() | Tagged():
            return _is_one_of(columns["n"], find_numbers(filter_))


def _compared(column: npt.NDArray[Any], comparison: ComparisonOperator, value: float) -> Mask:
    compare: Callable[[Any, Any], Any] = COMPARISONS[comparison]
    return np.asarray(compare(column, value), np.bool_)


def _is_one_of(column: npt.NDArray[Any], values: Iterable[Any]) -> Mask:
    wanted = np.asarray(values if isinstance(values, np.ndarray) else list(values))
    if len(wanted) == 1:
        return np.asarray(column == wanted[0], np.bool_)
    if not len(wanted):
        return np.zeros(len(column), np.bool_)
    return np.isin(column, wanted)
