"""JSON lines: one object a line. What is carried over keeps its spelling."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import orjson
from msgspec import Raw

from service.bulk.row_files import EMBEDDING, PART_ROWS, TRUNCATED, Columns, Part, check_room
from service.errors import UnusableFile

Row = dict[str, Raw]


class JsonLines:
    """A RowFile of lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decode = msgspec.json.Decoder(Row).decode

    def parts(self) -> list[Part]:
        places: list[int] = []
        rows = end = 0
        with self._path.open("rb") as lines:
            for rows, line in enumerate(lines, 1):
                if rows % PART_ROWS == 1:
                    places.append(end)
                end += len(line)
        return [
            Part(number, first := number * PART_ROWS, min(PART_ROWS, rows - first), place)
            for number, place in enumerate(places)
        ]

    def read(self, part: Part, field: str) -> tuple[list[Row], list[str]]:
        rows, texts = [], []
        with self._path.open("rb") as lines:
            lines.seek(part.place)
            for number in range(part.first_row, part.first_row + part.rows):
                try:
                    row = self._decode(lines.readline())
                    text = msgspec.json.decode(row.get(field, b"null"), type=str)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise UnusableFile(
                        f"{self.place_of(number)}: expected an object with a string in the field "
                        f"{field!r}: {error}"
                    ) from None
                check_room(row, self.place_of(number))
                rows.append(row)
                texts.append(text)
        return rows, texts

    def write(self, rows: list[Row], columns: Columns, output: BinaryIO) -> None:
        for index, (row, embedding) in enumerate(zip(rows, columns.embeddings, strict=True)):
            # The shortest digits that read back as the same float32; the embedder gives no NaN.
            numbers = orjson.dumps(embedding, option=orjson.OPT_SERIALIZE_NUMPY)
            added: dict[str, Any] = {EMBEDDING: Raw(numbers)}
            if columns.truncated is not None:
                added[TRUNCATED] = columns.truncated[index]
            output.write(msgspec.json.encode(row | added) + b"\n")

    def join(self, parts: Sequence[Path], nothing: Columns, output: BinaryIO) -> None:
        for path in parts:
            with path.open("rb") as part:
                shutil.copyfileobj(part, output)

    def place_of(self, row: int) -> str:
        return f"{self._path}, line {row + 1:,}"
