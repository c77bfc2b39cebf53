"""The matrix as a file beside the database, so that opening a store need not read every memory.

It holds nothing that the database does not: one that is missing, damaged or not the last that the
database knows of is not used. The file has a beginning of fixed size, a header as JSON, the arrays
of each tenant as they are in memory, and a checksum of the arrays.
"""

import io
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from service.memory.matrix import COLUMNS, TEXT_COLUMNS, Matrix, Names, TenantRows, View

# Magic with the version of the format, length of the header, checksum of the header.
_BEGINNING = struct.Struct("<8sQI")
_MAGIC = b"AIMEMS\x00\x01"
_CHECKSUM = struct.Struct("<I")

# How many codes are copied at once on their way into the file.
_ROWS_AT_ONCE = 16_384


class _Tenant(msgspec.Struct, frozen=True):
    number: int
    rows: int
    names: dict[str, list[str]]


class _Header(msgspec.Struct, frozen=True):
    token: str
    """What the database knows this file by."""
    change: int
    dimensions: int
    byte_order: str
    tenants: list[_Tenant]


def write_snapshot(path: Path, token: str, matrix: Matrix) -> int:
    """Write the matrix in place of the file at the path, whole or not at all; gives its change.

    Raises:
        OSError: it cannot be written.
    """
    change, views = matrix.views()
    packed = {number: _packed(view) for number, view in views.items() if view.alive.any()}
    header = msgspec.json.encode(
        _Header(
            token=token,
            change=change,
            dimensions=matrix.dimensions,
            byte_order=sys.byteorder,
            tenants=[
                _Tenant(number, int(views[number].alive.sum()), names)
                for number, (names, _) in packed.items()
            ],
        )
    )
    temporary = path.with_name(f"{path.name}.new")
    try:
        with temporary.open("wb") as file:
            file.write(_BEGINNING.pack(_MAGIC, len(header), zlib.crc32(header)))
            file.write(header)
            checksum = 0
            for number, (_, columns) in packed.items():
                for column in columns:
                    checksum = _write(file, column, checksum)
                for codes in _living_codes(views[number]):
                    checksum = _write(file, codes, checksum)
            file.write(_CHECKSUM.pack(checksum))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return change


def read_snapshot(path: Path, token: str | None, dimensions: int) -> tuple[int, Matrix] | None:
    """The matrix in the file, and its change; None unless the file is whole and has this token."""
    try:
        with path.open("rb") as file:
            return _read(file, token, dimensions)
    except (OSError, EOFError):
        return None


def _read(file: io.BufferedReader, token: str | None, dimensions: int) -> tuple[int, Matrix] | None:
    beginning = bytearray(_BEGINNING.size)
    _fill(file, beginning, 0)
    magic, length, header_checksum = _BEGINNING.unpack(beginning)
    size = os.fstat(file.fileno()).st_size
    if magic != _MAGIC or length > size:
        return None
    encoded = bytearray(length)
    if _fill(file, encoded, 0) != header_checksum:
        return None
    header = msgspec.json.decode(encoded, type=_Header)
    if (header.token, header.dimensions, header.byte_order) != (token, dimensions, sys.byteorder):
        return None
    row_bytes = dimensions + sum(np.dtype(dtype).itemsize for dtype in COLUMNS.values())
    rows = sum(tenant.rows for tenant in header.tenants)
    if size != _BEGINNING.size + length + rows * row_bytes + _CHECKSUM.size:
        return None
    checksum = 0
    tenants = {}
    for tenant in header.tenants:
        columns: dict[str, npt.NDArray[Any]] = {}
        for name, dtype in COLUMNS.items():
            columns[name] = np.empty(tenant.rows, dtype)
            checksum = _fill(file, columns[name], checksum)
        codes = np.empty((tenant.rows, dimensions), np.int8)
        checksum = _fill(file, codes, checksum)
        names = {name: Names(tenant.names[name]) for name in TEXT_COLUMNS}
        tenants[tenant.number] = (columns, codes, names)
    kept = bytearray(_CHECKSUM.size)
    _fill(file, kept, 0)
    if _CHECKSUM.unpack(kept) != (checksum,):
        return None
    rows_of = {number: TenantRows(*parts) for number, parts in tenants.items()}
    return header.change, Matrix.of_tenants(dimensions, header.change, rows_of)


def _packed(view: View) -> tuple[dict[str, list[str]], Sequence[npt.NDArray[Any]]]:
    """The columns of what is alive, and those names that it has."""
    names: dict[str, list[str]] = {}
    columns = []
    for name, column in view.columns.items():
        living = column[view.alive]
        if name in TEXT_COLUMNS:
            known = view.names[name].names
            used, living = np.unique(np.append(0, living), return_inverse=True)
            names[name] = [text for number in used.tolist() if (text := known[number]) is not None]
            living = living[1:].astype(column.dtype)
        columns.append(living)
    return names, columns


def _living_codes(view: View) -> Iterator[npt.NDArray[np.int8]]:
    living = np.flatnonzero(view.alive)
    for start in range(0, len(living), _ROWS_AT_ONCE):
        yield view.codes[living[start : start + _ROWS_AT_ONCE]]


def _write(file: io.BufferedWriter, data: npt.NDArray[Any], checksum: int) -> int:
    buffer = _bytes_of(data)
    file.write(buffer)
    return zlib.crc32(buffer, checksum)


def _fill(file: io.BufferedReader, target: bytearray | npt.NDArray[Any], checksum: int) -> int:
    buffer = _bytes_of(target)
    if file.readinto(buffer) != len(buffer):
        raise EOFError
    return zlib.crc32(buffer, checksum)


def _bytes_of(data: bytearray | npt.NDArray[Any]) -> memoryview:
    return (
        data.reshape(-1).view(np.uint8).data if isinstance(data, np.ndarray) else memoryview(data)
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
