"""What search reads of all memories, in memory: of each tenant the embeddings' codes as one matrix,
and beside it the fields that filters read most, as columns.

A code is an embedding in bytes: its components, rounded to 1/127 of the largest. One thread writes
and any number read. Rows are only ever added behind those that readers see, or marked as gone, and
a reader takes the marks with it; so what a reader has does not change under it.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from service.errors import StoreUnavailable

Array = npt.NDArray[Any]  # (memories,)
Codes = npt.NDArray[np.int8]  # (memories, dimensions)

# A time that is not set. It is later than any time, which is right for what ends a memory's life.
UNSET = int(np.iinfo(np.int64).max)

TIME_COLUMNS = ("created_at", "updated_at", "valid_from", "valid_to", "expires_at")
TEXT_COLUMNS = ("memory_type", "context", "user_id", "agent_id", "session_id")
COLUMNS: Mapping[str, type[np.generic]] = {
    "n": np.int64,
    **dict.fromkeys(TIME_COLUMNS, np.int64),
    "importance": np.float64,
    **dict.fromkeys(TEXT_COLUMNS, np.int32),
    "deviation": np.float32,
}

_SMALLEST_CAPACITY = 16

# No publication takes this long once its transaction is written.
_PUBLICATION_SECONDS = 30.0


class MatrixRow(NamedTuple):
    """A memory as the matrix has it; without a code it keeps the one it has."""

    n: int
    created_at: int
    updated_at: int
    valid_from: int
    valid_to: int | None
    expires_at: int | None
    importance: float
    memory_type: str
    context: str | None
    user_id: str | None
    agent_id: str | None
    session_id: str | None
    code: bytes | None
    deviation: float


# What a transaction changes: by the numbers of the tenant and of the memory, the memory as it is
# now, or None where it is gone.
Effects = dict[tuple[int, int], MatrixRow | None]


def merge(effects: Effects, later: Effects) -> None:
    """Add to effects those that come after them."""
    for key, row in later.items():
        if row and row.code is None and (earlier := effects.get(key)):
            row = row._replace(code=earlier.code, deviation=earlier.deviation)
        effects[key] = row


def coded(embeddings: npt.NDArray[np.float32]) -> tuple[Codes, npt.NDArray[np.float32]]:
    """The codes of embeddings (embeddings, dimensions), and the deviation of each from its own.

    That is the distance of the two at unit length, rounded up: no cosine with the code differs from
    that with the embedding by more.
    """
    exact = embeddings.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    codes = np.rint(exact * (127 / np.abs(exact).max(axis=1, keepdims=True))).astype(np.int8)
    approximate = codes / np.linalg.norm(codes.astype(np.float64), axis=1, keepdims=True)
    deviations = np.linalg.norm(exact - approximate, axis=1) * (1 + 1e-6)
    return codes, deviations.astype(np.float32)


class Names:
    """Strings as small numbers; 0 is None."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names: list[str | None] = [None, *names]
        self._numbers: dict[str | None, int] = {
            name: number for number, name in enumerate(self.names)
        }

    def number(self, name: str | None) -> int:
        """The number of a string, which gets one if it has none. For the writing thread only."""
        if (number := self._numbers.get(name)) is None:
            self.names.append(name)
            number = self._numbers[name] = len(self.names) - 1
        return number

    def known(self, names: Iterable[str | None]) -> list[int]:
        """The numbers of those strings that have one."""
        return [number for name in names if (number := self._numbers.get(name)) is not None]


class View(NamedTuple):
    """The memories of a tenant as one change left them."""

    columns: Mapping[str, Array]  # (memories,) each, of those that are gone too
    codes: Codes  # (memories, dimensions)
    alive: npt.NDArray[np.bool_]  # (memories,)
    names: Mapping[str, Names]


class TenantRows:
    """The rows of one tenant: arrays with room behind the rows that are there."""

    def __init__(
        self, columns: Mapping[str, Array], codes: Codes, names: Mapping[str, Names]
    ) -> None:
        self._columns = columns
        self._codes = codes
        self._names = names
        self._count = len(codes)
        self._alive = np.ones(self._count, np.bool_)
        self._row_of: dict[int, int] = dict(
            zip(columns["n"].tolist(), range(self._count), strict=True)
        )

    @classmethod
    def empty(cls, dimensions: int) -> "TenantRows":
        """No rows."""
        columns = {name: np.empty(0, dtype) for name, dtype in COLUMNS.items()}
        names = {name: Names() for name in TEXT_COLUMNS}
        return cls(columns, np.empty((0, dimensions), np.int8), names)

    def __len__(self) -> int:
        return len(self._row_of)

    def view(self) -> View:
        """What a reader takes with it."""
        columns = {name: column[: self._count] for name, column in self._columns.items()}
        alive = self._alive[: self._count].copy()
        return View(columns, self._codes[: self._count], alive, self._names)

    def apply(self, effects: Mapping[int, MatrixRow | None]) -> None:
        """Have the rows that a change left, by the number of the memory."""
        written = [row for row in effects.values() if row]
        codes = np.empty((len(written), self._codes.shape[1]), np.int8)
        deviations = np.empty(len(written), np.float32)
        for index, row in enumerate(written):
            if row.code is None:
                codes[index] = self._codes[self._row_of[row.n]]
                deviations[index] = self._columns["deviation"][self._row_of[row.n]]
            else:
                codes[index] = np.frombuffer(row.code, np.int8)
                deviations[index] = row.deviation
        gone = [self._row_of.pop(n) for n in effects if n in self._row_of]
        self._alive[gone] = False
        self._make_room(len(written))
        start, end = self._count, self._count + len(written)
        self._codes[start:end] = codes
        for name, values in self._column_values(written).items():
            self._columns[name][start:end] = values
        self._columns["deviation"][start:end] = deviations
        self._alive[start:end] = True
        self._row_of.update(zip((row.n for row in written), range(start, end), strict=True))
        self._count = end

    def _column_values(self, rows: Sequence[MatrixRow]) -> dict[str, list[Any]]:
        if not rows:
            return {}
        columns = zip(*rows, strict=True)
        values: dict[str, list[Any]] = {
            name: list(column) for name, column in zip(MatrixRow._fields, columns, strict=True)
        }
        del values["code"], values["deviation"]
        for name in ("valid_to", "expires_at"):
            values[name] = [UNSET if time is None else time for time in values[name]]
        for name in TEXT_COLUMNS:
            number = self._names[name].number
            values[name] = [number(text) for text in values[name]]
        return values

    def _make_room(self, added: int) -> None:
        living = len(self._row_of)
        full = self._count + added > len(self._alive)
        if not full and self._count <= 2 * living + _SMALLEST_CAPACITY:
            return
        # Into new arrays: readers may still have the old ones.
        capacity = max(_SMALLEST_CAPACITY, (living + added) * 3 // 2)
        alive = np.flatnonzero(self._alive[: self._count])
        columns = {}
        for name, column in self._columns.items():
            columns[name] = np.empty(capacity, column.dtype)
            columns[name][:living] = column[alive]
        codes = np.empty((capacity, self._codes.shape[1]), np.int8)
        np.take(self._codes, alive, axis=0, out=codes[:living])
        self._columns, self._codes, self._count = columns, codes, living
        self._alive = np.zeros(capacity, np.bool_)
        self._alive[:living] = True
        self._row_of = dict(zip(columns["n"][:living].tolist(), range(living), strict=True))


class Matrix:
    """All tenants' memories, as of the change of this number; published by one thread."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._published = threading.Condition()
        self._change = 0
        self._tenants: dict[int, TenantRows] = {}
        self._rows_changed = 0

    @classmethod
    def of_tenants(cls, dimensions: int, change: int, tenants: dict[int, TenantRows]) -> "Matrix":
        """The memories of tenants, by number, as a change left them."""
        matrix = cls(dimensions)
        matrix._change, matrix._tenants = change, tenants
        return matrix

    @property
    def rows_changed(self) -> int:
        """How many rows changes have written or taken away."""
        return self._rows_changed

    @property
    def rows(self) -> int:
        """How many memories there are, of all tenants."""
        with self._published:
            return sum(len(rows) for rows in self._tenants.values())

    def publish(self, change: int, effects: Effects) -> None:
        """Have what a transaction, which is written, has changed."""
        by_tenant: dict[int, dict[int, MatrixRow | None]] = {}
        for (tenant, n), row in effects.items():
            by_tenant.setdefault(tenant, {})[n] = row
        with self._published:
            for tenant, rows in by_tenant.items():
                if tenant not in self._tenants:
                    self._tenants[tenant] = TenantRows.empty(self.dimensions)
                self._tenants[tenant].apply(rows)
            self._change = change
            self._rows_changed += len(effects)
            self._published.notify_all()

    def view(self, tenant: int, change: int) -> View | None:
        """A tenant's memories as this change left them; None if later ones have been published.

        A change that is written but not yet published is waited for.

        Raises:
            StoreUnavailable: it was waited for in vain.
        """
        with self._published:
            self._wait_for(change)
            if self._change > change:
                return None
            rows = self._tenants.get(tenant)
            return (TenantRows.empty(self.dimensions) if rows is None else rows).view()

    def views(self) -> tuple[int, dict[int, View]]:
        """The last change, and the memories of every tenant as it left them."""
        with self._published:
            return self._change, {tenant: rows.view() for tenant, rows in self._tenants.items()}

    def _wait_for(self, change: int) -> None:
        if not self._published.wait_for(lambda: self._change >= change, _PUBLICATION_SECONDS):
            raise StoreUnavailable("what was written last is not yet ready to be searched")
