"""The tables of the embedded store, how they came to be, and what the store says about itself."""

import sqlite3
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from service.errors import EmbeddingModelMismatch, StoreLoadError
from service.memory.store import EmbeddingModel

# "MEMO": tells a store from the SQLite databases of other programs.
APPLICATION_ID = 0x4D454D4F

# What it takes from one version of the schema to the next; the version is how many were taken.
Migration = Sequence[str]

_MEMORY = """
    CREATE TABLE memory (
        n INTEGER PRIMARY KEY,
        tenant INTEGER NOT NULL REFERENCES tenant (number),
        id TEXT NOT NULL,
        changed INTEGER NOT NULL,  -- the change that wrote this row
        memory_type TEXT NOT NULL,
        importance REAL NOT NULL,
        context TEXT,
        user_id TEXT,
        agent_id TEXT,
        session_id TEXT,
        title TEXT,
        created_at INTEGER NOT NULL,  -- times are microseconds since 1970
        updated_at INTEGER NOT NULL,
        valid_from INTEGER NOT NULL,
        valid_to INTEGER,
        expires_at INTEGER,
        supersedes TEXT,
        superseded_by TEXT,
        version INTEGER NOT NULL,
        content_hash BLOB NOT NULL,
        UNIQUE (tenant, id)
    ) STRICT
"""

# What only an answer needs is apart from what a filter reads, so that a filter reads less.
_TEXT = """
    CREATE TABLE text (
        n INTEGER PRIMARY KEY REFERENCES memory ON DELETE CASCADE,
        content TEXT NOT NULL,
        tags BLOB NOT NULL,  -- JSON
        metadata BLOB NOT NULL,  -- JSON
        words TEXT NOT NULL,
        scope TEXT NOT NULL  -- one word that stands for the tenant
    ) STRICT
"""

_EMBEDDINGS = (
    """
    CREATE TABLE {prefix}embedding (
        n INTEGER PRIMARY KEY REFERENCES memory ON DELETE CASCADE,
        embedding BLOB NOT NULL  -- little-endian 32-bit floats
    ) STRICT
    """,
    """
    CREATE TABLE {prefix}code (
        n INTEGER PRIMARY KEY REFERENCES memory ON DELETE CASCADE,
        code BLOB NOT NULL,  -- bytes with a sign
        deviation REAL NOT NULL
    ) STRICT
    """,
)
NEXT_EMBEDDINGS = tuple(table.format(prefix="next_") for table in _EMBEDDINGS)

_FIRST: Migration = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID",
    "INSERT INTO meta VALUES ('change', 0)",
    "CREATE TABLE tenant (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",
    _MEMORY,
    "CREATE INDEX memory_created ON memory (tenant, created_at, id)",
    "CREATE INDEX memory_updated ON memory (tenant, updated_at, id)",
    "CREATE INDEX memory_importance ON memory (tenant, importance, id)",
    "CREATE INDEX memory_user ON memory (tenant, user_id, created_at, id) "
    "WHERE user_id IS NOT NULL",
    "CREATE INDEX memory_title ON memory (tenant, title) WHERE title IS NOT NULL",
    "CREATE INDEX memory_content ON memory (tenant, content_hash)",
    "CREATE INDEX memory_successor ON memory (tenant, id) WHERE supersedes IS NOT NULL",
    "CREATE INDEX memory_expiring ON memory (expires_at) WHERE expires_at IS NOT NULL",
    "CREATE INDEX memory_changed ON memory (changed)",
    "CREATE TABLE deleted (n INTEGER PRIMARY KEY, tenant INTEGER NOT NULL, "
    "changed INTEGER NOT NULL) STRICT",
    "CREATE INDEX deleted_changed ON deleted (changed)",
    """
    CREATE TRIGGER memory_deleted AFTER DELETE ON memory BEGIN
        INSERT OR REPLACE INTO deleted
        SELECT old.n, old.tenant, value FROM meta WHERE name = 'change';
    END
    """,
    _TEXT,
    """
    CREATE VIRTUAL TABLE fts USING fts5 (
        words, scope, content = 'text', content_rowid = 'n', tokenize = "ascii tokenchars '_'"
    )
    """,
    """
    CREATE TRIGGER text_written AFTER INSERT ON text BEGIN
        INSERT INTO fts (rowid, words, scope) VALUES (new.n, new.words, new.scope);
    END
    """,
    """
    CREATE TRIGGER text_deleted AFTER DELETE ON text BEGIN
        INSERT INTO fts (fts, rowid, words, scope) VALUES ('delete', old.n, old.words, old.scope);
    END
    """,
    """
    CREATE TRIGGER text_changed AFTER UPDATE ON text WHEN old.words <> new.words BEGIN
        INSERT INTO fts (fts, rowid, words, scope) VALUES ('delete', old.n, old.words, old.scope);
        INSERT INTO fts (rowid, words, scope) VALUES (new.n, new.words, new.scope);
    END
    """,
    *(table.format(prefix="") for table in _EMBEDDINGS),
    *NEXT_EMBEDDINGS,
    # The columns of a primary key come first: the integrity check of SQLite 3.40 reports columns as
    # NULL that are not, in tables without rowid where they do not.
    """
    CREATE TABLE tag (
        n INTEGER NOT NULL REFERENCES memory ON DELETE CASCADE,
        tag TEXT NOT NULL,
        tenant INTEGER NOT NULL,
        PRIMARY KEY (n, tag)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX tag_name ON tag (tenant, tag)",
    # The storage class of a value is its type: numbers are REAL, strings TEXT; of BLOB are false
    # (00), true (01), and lists and objects (02). What is null is not there.
    """
    CREATE TABLE metadata (
        n INTEGER NOT NULL REFERENCES memory ON DELETE CASCADE,
        key TEXT NOT NULL,
        tenant INTEGER NOT NULL,
        value ANY NOT NULL,
        PRIMARY KEY (n, key)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX metadata_value ON metadata (tenant, key, value)",
    """
    CREATE TABLE relation (
        tenant INTEGER NOT NULL,
        source TEXT NOT NULL,
        relation_type TEXT NOT NULL,
        target TEXT NOT NULL,
        weight REAL NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (tenant, source, relation_type, target),
        FOREIGN KEY (tenant, source) REFERENCES memory (tenant, id) ON DELETE CASCADE,
        FOREIGN KEY (tenant, target) REFERENCES memory (tenant, id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX relation_target ON relation (tenant, target, relation_type, source)",
    """
    CREATE TABLE receipt (
        tenant INTEGER NOT NULL,
        key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        results BLOB NOT NULL,  -- JSON
        created_at INTEGER NOT NULL,
        PRIMARY KEY (tenant, key)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX receipt_created ON receipt (created_at)",
)

MIGRATIONS: Sequence[Migration] = (_FIRST,)

T = TypeVar("T")


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring a database to the newest schema; each step is taken whole or not at all.

    Raises:
        StoreLoadError: it is a database of another program, or of a newer version of this one.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application != APPLICATION_ID:
        raise StoreLoadError("it is a SQLite database, but not a store of memories")
    if version > len(migrations):
        raise StoreLoadError(
            f"its schema is of version {version}, and this service knows up to {len(migrations)}; "
            "use the version of the service that wrote it, or a newer one"
        )
    for number, migration in enumerate(migrations[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in migration:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def current_change(connection: sqlite3.Connection) -> int:
    """The number of the last change, which every transaction that writes raises by one."""
    (change,) = connection.execute("SELECT value FROM meta WHERE name = 'change'").fetchone()
    return int(change)


def read_meta(connection: sqlite3.Connection, name: str, type_: type[T]) -> T | None:
    """What the store says about itself under this name, if it says anything."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else msgspec.json.decode(row[0], type=type_)


def write_meta(connection: sqlite3.Connection, name: str, value: object | None) -> None:
    """Make the store say this about itself, or nothing for None."""
    if value is None:
        connection.execute("DELETE FROM meta WHERE name = ?", (name,))
    else:
        connection.execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, msgspec.json.encode(value))
        )


def keep_snapshot(connection: sqlite3.Connection, token: str, change: int) -> None:
    """Know the file that has the matrix as of this change; what was deleted before is in it."""
    write_meta(connection, "snapshot", token)
    connection.execute("DELETE FROM deleted WHERE changed <= ?", (change,))


def settle_model(
    connection: sqlite3.Connection, model: EmbeddingModel | None, *, re_embedding: bool
) -> EmbeddingModel:
    """The model whose embeddings fill the store; a new store is one of `model` from now on.

    Raises:
        StoreLoadError: the store is new, and there is no model.
        EmbeddingModelMismatch: the store is of another model, or on its way to another one.
    """
    kept = read_meta(connection, "model", EmbeddingModel)
    if kept is None:
        if model is None:
            raise StoreLoadError(
                "it is new and has no embeddings; expected a store that has been used"
            )
        write_meta(connection, "model", model)
        return model
    if re_embedding:
        return kept
    if target := read_meta(connection, "target", EmbeddingModel):
        raise EmbeddingModelMismatch(
            f"its embeddings are being exchanged, those of {shown(kept)} for those of "
            f"{shown(target)}; finish that with `python -m service re-embed`"
        )
    if model and not same_model(kept, model):
        raise EmbeddingModelMismatch(
            f"it has the embeddings of {shown(kept)}, and the service runs {shown(model)}; "
            "run the service with that model, or exchange the embeddings with "
            "`python -m service re-embed`"
        )
    return kept


def same_model(one: EmbeddingModel, other: EmbeddingModel) -> bool:
    """Whether their embeddings can be compared, whatever the models are called."""
    return (one.digest, one.dimensions) == (other.digest, other.dimensions)


def shown(model: EmbeddingModel) -> str:
    """The model as a message names it."""
    return f"{model.name} ({model.dimensions} dimensions, {model.digest[:12]})"
