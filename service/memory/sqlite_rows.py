"""Memories as rows of the embedded store: made ready outside the writing thread, written, read."""

import math
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from service.memory.matrix import MatrixRow, coded, merge
from service.memory.model import (
    Embedding,
    Memory,
    content_hash,
    from_microseconds,
    to_microseconds,
)
from service.memory.sqlite_filters import NOT_SCALAR_BLOB, Parameter, marks, metadata_parameter
from service.memory.sqlite_writer import Transaction
from service.memory.store import checked_embeddings
from service.memory.words import indexed_words

# What `memory_of` reads, of the tables memory (m) and text (t).
MEMORY_COLUMNS = """
    m.n, m.id, t.content, m.title, m.memory_type, t.tags, t.metadata, m.importance, m.context,
    m.user_id, m.agent_id, m.session_id, m.created_at, m.updated_at, m.valid_from, m.valid_to,
    m.expires_at, m.supersedes, m.superseded_by, m.version
"""
FROM_MEMORY = "FROM memory m CROSS JOIN text t ON t.n = m.n"

_WRITTEN_COLUMNS = (
    "tenant",
    "id",
    "memory_type",
    "importance",
    "context",
    "user_id",
    "agent_id",
    "session_id",
    "title",
    "created_at",
    "updated_at",
    "valid_from",
    "valid_to",
    "expires_at",
    "supersedes",
    "superseded_by",
    "version",
    "content_hash",
    "changed",
)
_INSERT_MEMORY = (
    f"INSERT INTO memory ({', '.join(_WRITTEN_COLUMNS)}) VALUES ({marks(_WRITTEN_COLUMNS)})"
)
_UPDATE_MEMORY = (
    f"UPDATE memory SET ({', '.join(_WRITTEN_COLUMNS)}) = ({marks(_WRITTEN_COLUMNS)}) WHERE n = ?"
)

_DECODE_TAGS = msgspec.json.Decoder(tuple[str, ...]).decode
_DECODE_METADATA = msgspec.json.Decoder(dict[str, Any]).decode


class PreparedEmbedding(NamedTuple):
    """An embedding as the tables have it."""

    embedding: bytes
    code: bytes
    deviation: float


class Prepared(NamedTuple):
    """A memory, and what follows from it that takes time to work out."""

    memory: Memory
    content_hash: bytes
    words: str
    tags: bytes
    metadata: bytes
    scalars: list[tuple[str, Parameter]]
    embedding: PreparedEmbedding | None


class Stored(NamedTuple):
    """A memory that is there, and its number."""

    n: int
    memory: Memory


def prepare_embeddings(
    embeddings: Sequence[Embedding] | npt.NDArray[np.float32], dimensions: int
) -> list[PreparedEmbedding]:
    """Embeddings, ready to be written.

    Raises:
        InvalidInput: one is of another size, not finite, or not of unit length.
    """
    checked = checked_embeddings(embeddings, dimensions)
    codes, deviations = coded(checked)
    return [
        PreparedEmbedding(embedding.astype("<f4").tobytes(), code.tobytes(), deviation)
        for embedding, code, deviation in zip(checked, codes, deviations.tolist(), strict=True)
    ]


def read_embedding(blob: bytes) -> Embedding:
    """The embedding that a row has."""
    return np.frombuffer(blob, "<f4").astype(np.float32)


def prepare(memory: Memory, embedding: PreparedEmbedding | None) -> Prepared:
    """A memory, ready to be written; without an embedding it keeps the one it has."""
    return Prepared(
        memory=memory,
        content_hash=bytes.fromhex(content_hash(memory)),
        words=indexed_words(memory.title, memory.content),
        tags=msgspec.json.encode(memory.tags),
        metadata=msgspec.json.encode(memory.metadata),
        scalars=_scalars(memory.metadata),
        embedding=embedding,
    )


def insert(transaction: Transaction, tenant: int, prepared: Prepared) -> None:
    """Write a memory that is not there, with its embedding."""
    connection = transaction.connection
    assert prepared.embedding is not None
    values = (*_values(tenant, prepared), transaction.change)
    n = connection.execute(_INSERT_MEMORY, values).lastrowid
    assert n is not None
    connection.execute(
        "INSERT INTO text VALUES (?, ?, ?, ?, ?, ?)",
        (
            n,
            prepared.memory.content,
            prepared.tags,
            prepared.metadata,
            prepared.words,
            scope(tenant),
        ),
    )
    _write_parts(transaction, tenant, n, prepared)


def rewrite(transaction: Transaction, tenant: int, n: int, prepared: Prepared) -> None:
    """Write all fields of the memory of this number anew."""
    connection = transaction.connection
    connection.execute(_UPDATE_MEMORY, (*_values(tenant, prepared), transaction.change, n))
    connection.execute(
        "UPDATE text SET (content, tags, metadata, words) = (?, ?, ?, ?) WHERE n = ?",
        (prepared.memory.content, prepared.tags, prepared.metadata, prepared.words, n),
    )
    connection.execute("DELETE FROM tag WHERE n = ?", (n,))
    connection.execute("DELETE FROM metadata WHERE n = ?", (n,))
    _write_parts(transaction, tenant, n, prepared)


def link(transaction: Transaction, tenant: int, n: int, memory: Memory) -> None:
    """Write what the memory of this number supersedes, is superseded by, and its `valid_to`."""
    transaction.connection.execute(
        "UPDATE memory SET supersedes = ?, superseded_by = ?, valid_to = ?, changed = ? "
        "WHERE n = ?",
        (
            memory.supersedes,
            memory.superseded_by,
            _microseconds_or_none(memory.valid_to),
            transaction.change,
            n,
        ),
    )
    _show(transaction, tenant, n, memory, None)


def erase(transaction: Transaction, tenant: int, numbers: Sequence[int]) -> None:
    """Delete memories by number, with all that hangs on them but supersession."""
    transaction.connection.execute(
        "DELETE FROM memory WHERE n IN (SELECT value FROM json_each(?))", (number_list(numbers),)
    )
    transaction.effects.update(dict.fromkeys(((tenant, n) for n in numbers), None))


def memory_of(row: Sequence[Any]) -> Memory:
    """The memory in the values of MEMORY_COLUMNS."""
    valid_to, expires_at = row[15], row[16]
    return Memory(
        id=row[1],
        content=row[2],
        title=row[3],
        memory_type=row[4],
        tags=_DECODE_TAGS(row[5]),
        metadata=_DECODE_METADATA(row[6]),
        importance=row[7],
        context=row[8],
        user_id=row[9],
        agent_id=row[10],
        session_id=row[11],
        created_at=from_microseconds(row[12]),
        updated_at=from_microseconds(row[13]),
        valid_from=from_microseconds(row[14]),
        valid_to=None if valid_to is None else from_microseconds(valid_to),
        expires_at=None if expires_at is None else from_microseconds(expires_at),
        supersedes=row[17],
        superseded_by=row[18],
        version=row[19],
    )


def find(connection: sqlite3.Connection, tenant: int, id: str) -> Stored | None:
    """The memory of this id, forgotten or not."""
    row = connection.execute(
        f"SELECT {MEMORY_COLUMNS} {FROM_MEMORY} WHERE m.tenant = ? AND m.id = ?", (tenant, id)
    ).fetchone()
    return Stored(row[0], memory_of(row)) if row else None


def tenant_number(connection: sqlite3.Connection, tenant: str) -> int | None:
    """The number of a tenant; None of one that never had a memory."""
    row = connection.execute("SELECT number FROM tenant WHERE name = ?", (tenant,)).fetchone()
    return int(row[0]) if row else None


def own_tenant_number(connection: sqlite3.Connection, tenant: str) -> int:
    """The number of a tenant that is going to have memories."""
    if (number := tenant_number(connection, tenant)) is not None:
        return number
    number = connection.execute("INSERT INTO tenant (name) VALUES (?)", (tenant,)).lastrowid
    assert number is not None
    return number


def scope(tenant: int) -> str:
    """The word that stands for a tenant in the index of words."""
    return f"t{tenant}"


def number_list(numbers: Sequence[int]) -> str:
    """Numbers as json_each takes them: any number of them in one parameter."""
    return f"[{','.join(map(str, numbers))}]"


def _values(tenant: int, prepared: Prepared) -> tuple[Any, ...]:
    memory = prepared.memory
    return (
        tenant,
        memory.id,
        memory.memory_type,
        memory.importance,
        memory.context,
        memory.user_id,
        memory.agent_id,
        memory.session_id,
        memory.title,
        to_microseconds(memory.created_at),
        to_microseconds(memory.updated_at),
        to_microseconds(memory.valid_from),
        _microseconds_or_none(memory.valid_to),
        _microseconds_or_none(memory.expires_at),
        memory.supersedes,
        memory.superseded_by,
        memory.version,
        prepared.content_hash,
    )


def _write_parts(transaction: Transaction, tenant: int, n: int, prepared: Prepared) -> None:
    connection = transaction.connection
    memory, embedding = prepared.memory, prepared.embedding
    if memory.tags:
        connection.executemany(
            "INSERT INTO tag VALUES (?, ?, ?)", [(n, tag, tenant) for tag in memory.tags]
        )
    if prepared.scalars:
        connection.executemany(
            "INSERT INTO metadata VALUES (?, ?, ?, ?)",
            [(n, key, tenant, value) for key, value in prepared.scalars],
        )
    if embedding:
        connection.execute(
            "INSERT OR REPLACE INTO embedding VALUES (?, ?)", (n, embedding.embedding)
        )
        connection.execute(
            "INSERT OR REPLACE INTO code VALUES (?, ?, ?)",
            (n, embedding.code, embedding.deviation),
        )
    _show(transaction, tenant, n, memory, embedding)


def _show(
    transaction: Transaction,
    tenant: int,
    n: int,
    memory: Memory,
    embedding: PreparedEmbedding | None,
) -> None:
    code, deviation = (embedding.code, embedding.deviation) if embedding else (None, 0.0)
    row = MatrixRow(
        n=n,
        created_at=to_microseconds(memory.created_at),
        updated_at=to_microseconds(memory.updated_at),
        valid_from=to_microseconds(memory.valid_from),
        valid_to=_microseconds_or_none(memory.valid_to),
        expires_at=_microseconds_or_none(memory.expires_at),
        importance=memory.importance,
        memory_type=memory.memory_type,
        context=memory.context,
        user_id=memory.user_id,
        agent_id=memory.agent_id,
        session_id=memory.session_id,
        code=code,
        deviation=deviation,
    )
    merge(transaction.effects, {(tenant, n): row})


def _scalars(metadata: dict[str, Any]) -> list[tuple[str, Parameter]]:
    scalars: list[tuple[str, Parameter]] = []
    for key, value in metadata.items():
        match value:
            case str() | bool() | int():
                scalars.append((key, metadata_parameter(value)))
            case float():
                # JSON has neither infinities nor NaN; they are read again as null.
                if math.isfinite(value):
                    scalars.append((key, value))
            case None:
                pass
            case _:
                scalars.append((key, NOT_SCALAR_BLOB))
    return scalars


def _microseconds_or_none(time: Any) -> int | None:
    return None if time is None else to_microseconds(time)
