"""Parquet, with pyarrow, which the extras `parquet` and `ray` bring."""

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as arrow
from pyarrow import parquet

from service.bulk.row_files import EMBEDDING, PART_ROWS, TRUNCATED, Columns, Part, check_room
from service.errors import UnusableFile


class Parquet:
    """A RowFile of row groups, of which one is in memory at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = parquet.ParquetFile(path)
        except arrow.ArrowInvalid as error:
            raise UnusableFile(f"{path} is not a Parquet file: {error}") from None
        self._schema = self._file.schema_arrow
        check_room(self._schema.names, str(path))
        sizes = map(self._file.metadata.row_group, range(self._file.num_row_groups))
        self._first_rows = np.cumsum([0, *(group.num_rows for group in sizes)]).tolist()
        self._number = -1  # of the row group in memory
        self._group = self._schema.empty_table()

    def parts(self) -> list[Part]:
        found: list[Part] = []
        for group, first in enumerate(self._first_rows[:-1]):
            end = self._first_rows[group + 1]
            for row in range(first, end, PART_ROWS):
                found.append(Part(len(found), row, min(PART_ROWS, end - row), group))
        return found

    def read(self, part: Part, field: str) -> tuple[arrow.Table, list[str]]:
        if field not in self._schema.names:
            raise UnusableFile(
                f"{self._path} has no column {field!r}; it has {', '.join(self._schema.names)}"
            )
        if part.place != self._number:
            self._group = self._file.read_row_group(part.place)
            self._number = part.place
        rows = self._group.slice(part.first_row - self._first_rows[part.place], part.rows)
        texts = rows.column(field).to_pylist()
        for number, text in enumerate(texts, part.first_row):
            if not isinstance(text, str):
                raise UnusableFile(
                    f"{self.place_of(number)}: expected a string in the column {field!r}, got "
                    f"{text!r:.80}"
                )
        return rows, texts

    def write(self, rows: arrow.Table, columns: Columns, output: BinaryIO) -> None:
        numbers = arrow.array(columns.embeddings.ravel())
        dimensions = columns.embeddings.shape[1]
        embeddings = arrow.FixedSizeListArray.from_arrays(numbers, dimensions)
        rows = rows.append_column(EMBEDDING, embeddings)
        if columns.truncated is not None:
            truncated = arrow.array(columns.truncated, arrow.bool_())
            rows = rows.append_column(TRUNCATED, truncated)
        parquet.write_table(rows, output)

    def join(self, parts: Sequence[Path], nothing: Columns, output: BinaryIO) -> None:
        if not parts:
            self.write(self._schema.empty_table(), nothing, output)
            return
        with parquet.ParquetWriter(output, parquet.read_schema(parts[0])) as writer:
            for path in parts:
                writer.write_table(parquet.read_table(path))

    def place_of(self, row: int) -> str:
        return f"{self._path}, row {row + 1:,}"
