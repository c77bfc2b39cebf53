"""Files of rows: read in parts, and written as parts that are joined.

A part is so many rows at a place that is found without reading what comes before it.
"""

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from service.embedding.onnx_model import Embeddings
from service.errors import UnusableFile

# Enough to fill many cores, and little to do again after a crash.
PART_ROWS = 1_024

EMBEDDING = "embedding"
TRUNCATED = "truncated"


class Part(NamedTuple):
    """Some rows of a file that follow each other."""

    number: int
    first_row: int
    rows: int
    place: int
    """Where they begin: a byte of a file of lines, a row group of a Parquet file."""


class Columns(NamedTuple):
    """What is added to the rows of a part."""

    embeddings: Embeddings  # (rows, dimensions)
    truncated: Sequence[bool] | None
    """Whether each text was cut; None where none may be."""


class RowFile(Protocol):
    """A file of one of the formats; what is wrong with it raises UnusableFile."""

    def parts(self) -> list[Part]:
        """All of its rows, in order."""

    def read(self, part: Part, field: str) -> tuple[Any, list[str]]:
        """The rows of a part, and the text that each of them has in a field."""

    def write(self, rows: Any, columns: Columns, output: BinaryIO) -> None:
        """Rows as they were read, with more columns, as a file of their own."""

    def join(self, parts: Sequence[Path], nothing: Columns, output: BinaryIO) -> None:
        """One file of those that were written; `nothing` are the columns where there is none."""

    def place_of(self, row: int) -> str:
        """A row, counted from 0, as a message names it."""


def check_room(fields: Collection[str], place: str) -> None:
    """Return if nothing is in the way of the columns that are added.

    Raises:
        UnusableFile: a field has the name of one of them.
    """
    for name in (EMBEDDING, TRUNCATED):
        if name in fields:
            raise UnusableFile(
                f"{place} has a field {name!r} already, and one of this name is added; rename it, "
                "or leave it out"
            )


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file, under another name until all of it is on the disk."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as output:
        write(output)
        output.flush()
        os.fsync(output.fileno())
    partial.replace(path)
