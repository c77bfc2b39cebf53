"""Opens the database of an embedded store: the lock, the file, its schema and its matrix."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from service.errors import EmbeddingModelMismatch, StoreInUse, StoreLoadError
from service.memory.matrix import Effects, Matrix, MatrixRow
from service.memory.matrix_snapshot import read_snapshot
from service.memory.sqlite_schema import current_change, migrate, read_meta, settle_model
from service.memory.store import EmbeddingModel

# How much of the database a connection keeps at hand, in KiB; the operating system keeps more.
_WRITER_CACHE = 65_536
_READER_CACHE = 16_384

# How many pages the log takes up before they go into the database: 40 MB. With SQLite's 1,000 a
# batch of 500 memories does that at each commit.
_CHECKPOINT_PAGES = 10_000

_ROWS_AT_ONCE = 4_096


class OpenedDatabase(NamedTuple):
    """A database, ready to be written to and searched."""

    connection: sqlite3.Connection
    """To write with."""
    model: EmbeddingModel
    matrix: Matrix
    resumed: bool
    """The matrix was kept in a file, and only what changed since was read."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have the store at a path for this process alone.

    Raises:
        StoreLoadError: another process has it; or there can be no file.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreLoadError(f"the store {path} cannot be opened: {error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 20).decode(errors="replace").strip()
            raise StoreInUse(
                f"the store {path} is in use by process {owner or 'unknown'}; stop that first, or "
                "give this one another store"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def snapshot_of(path: Path) -> Path:
    """The file that keeps the matrix of the store at a path."""
    return path.with_name(f"{path.name}.matrix")


def open_database(
    path: Path, model: EmbeddingModel | None, *, re_embedding: bool
) -> OpenedDatabase:
    """The database at a path, for embeddings of a model, or of the one that it has.

    Raises:
        StoreLoadError: it is no store, is damaged or of a newer version; or it is new, and there is
            no model for it.
        EmbeddingModelMismatch: it has the embeddings of another model.
    """
    try:
        connection = connect(path, _WRITER_CACHE)
        try:
            migrate(connection)
            kept_model = settle_model(connection, model, re_embedding=re_embedding)
            token = read_meta(connection, "snapshot", str)
            found = (
                read_snapshot(snapshot_of(path), token, kept_model.dimensions) if token else None
            )
            matrix = read_matrix(connection, kept_model, found)
            return OpenedDatabase(connection, kept_model, matrix, found is not None)
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as error:
        raise StoreLoadError(
            f"the store {path} cannot be read ({error}); put a copy in its place, or move it away "
            "to begin with a new one"
        ) from error
    except (StoreLoadError, EmbeddingModelMismatch) as error:
        raise type(error)(f"the store {path} cannot be opened: {error}") from None


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection to read with, for one thread at a time."""
    connection = connect(path, _READER_CACHE)
    connection.execute("PRAGMA query_only = ON")
    return connection


def connect(path: Path, cache: int) -> sqlite3.Connection:
    """A connection with this many KiB of cache; transactions are begun and ended by hand."""
    # One thread uses a connection at a time; the thread that closes it may be another.
    connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        for setting in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            # Overwrites what is deleted, where that costs no further writing.
            "secure_delete = FAST",
            f"cache_size = -{cache}",
            f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
        ):
            connection.execute(f"PRAGMA {setting}").fetchall()
    except BaseException:  # such as that the file is none of SQLite's
        connection.close()
        raise
    return connection


def read_matrix(
    connection: sqlite3.Connection,
    model: EmbeddingModel,
    found: tuple[int, Matrix] | None = None,
) -> Matrix:
    """The matrix as of the last change: one that was found, of an earlier change, or a new one."""
    since, matrix = found or (0, Matrix(model.dimensions))
    last = current_change(connection)
    for effects in _changes_since(connection, since):
        matrix.publish(last, effects)
    matrix.publish(last, {})
    return matrix


def _changes_since(connection: sqlite3.Connection, change: int) -> Iterator[Effects]:
    # A number may have been given again since, so what is deleted comes first.
    deleted = connection.execute("SELECT tenant, n FROM deleted WHERE changed > ?", (change,))
    while rows := deleted.fetchmany(_ROWS_AT_ONCE):
        yield dict.fromkeys((tuple(row) for row in rows), None)
    changed = connection.execute(
        """
        SELECT m.tenant, m.n, m.created_at, m.updated_at, m.valid_from, m.valid_to, m.expires_at,
            m.importance, m.memory_type, m.context, m.user_id, m.agent_id, m.session_id,
            code.code, code.deviation
        FROM memory m CROSS JOIN code ON code.n = m.n WHERE m.changed > ?
        """,
        (change,),
    )
    while rows := changed.fetchmany(_ROWS_AT_ONCE):
        yield {(row[0], row[1]): MatrixRow(*row[1:]) for row in rows}
