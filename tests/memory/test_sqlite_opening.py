import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import EmbeddingModelMismatch, StoreLoadError
from service.memory.sqlite_opening import locked, snapshot_of
from service.memory.sqlite_schema import APPLICATION_ID, MIGRATIONS, migrate
from service.memory.sqlite_store import open_sqlite_store
from tests.memory.memories import (
    MODEL,
)
from tests.memory.sqlite_stores import OTHER_MODEL, database, fill

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "memories.db"


async def test_folders_are_made(path: Path) -> None:
    async with open_sqlite_store(path, MODEL) as store:
        await store.ping()
    assert path.exists()


async def test_a_store_that_is_open_is_not_opened_twice(path: Path) -> None:
    async with open_sqlite_store(path, MODEL):
        with pytest.raises(StoreLoadError, match=rf"in use by process {os.getpid()};"):
            async with open_sqlite_store(path, MODEL):
                pass
    async with open_sqlite_store(path, MODEL):
        pass


async def test_the_lock_ends_with_its_process(path: Path) -> None:
    program = f"""
from pathlib import Path
from service.memory.sqlite_opening import locked, snapshot_of
with locked(Path({str(path)!r})):
    print("locked", flush=True)
    input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(StoreLoadError, match=f"in use by process {process.pid};"), locked(path):
            pass
        process.kill()
    with locked(path):
        pass


@pytest.mark.parametrize("content", [b"no database" * 1_000, b"SQLite format 3\0" + b"x" * 9_000])
async def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreLoadError, match=r"memories\.db cannot be read"):
        async with open_sqlite_store(path, MODEL):
            pass
    assert path.read_bytes() == content


async def test_the_database_of_another_program_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with database(path) as connection:
        connection.execute("CREATE TABLE theirs (a)")
    with pytest.raises(StoreLoadError, match="not a store of memories"):
        async with open_sqlite_store(path, MODEL):
            pass


async def test_a_database_that_was_cut_short_is_refused(path: Path) -> None:
    async with open_sqlite_store(path, MODEL) as store:
        await fill(store, "t", 50)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StoreLoadError, match="cannot be read"):
        async with open_sqlite_store(path, MODEL):
            pass


async def test_a_database_that_is_damaged_where_the_matrix_is_read_is_refused(path: Path) -> None:
    async with open_sqlite_store(path, MODEL) as store:
        await fill(store, "t", 200)
    snapshot_of(path).unlink()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * (path.stat().st_size // 2))
    with pytest.raises(StoreLoadError, match="cannot be read"):
        async with open_sqlite_store(path, MODEL):
            pass


async def test_a_store_of_a_newer_version_is_refused(path: Path) -> None:
    async with open_sqlite_store(path, MODEL):
        pass
    with database(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreLoadError, match=f"version {len(MIGRATIONS) + 1}, and this service"):
        async with open_sqlite_store(path, MODEL):
            pass


def test_migrations_that_are_missing_are_taken_one_by_one() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    steps = [("CREATE TABLE first (a)",), ("CREATE TABLE second (a)",)]
    migrate(connection, steps[:1])
    failing = [*steps, ("CREATE TABLE third (a)", "INSERT INTO nowhere VALUES (1)")]
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrate(connection, failing)
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    tables = connection.execute("SELECT name FROM sqlite_schema ORDER BY name").fetchall()
    assert tables == [("first",), ("second",)]
    connection.close()


async def test_another_model_is_refused_and_told_what_to_do(path: Path) -> None:
    async with open_sqlite_store(path, MODEL):
        pass
    with pytest.raises(EmbeddingModelMismatch, match="python -m service re-embed") as refusal:
        async with open_sqlite_store(path, OTHER_MODEL):
            pass
    assert MODEL.name in str(refusal.value)
    assert OTHER_MODEL.name in str(refusal.value)


async def test_without_a_model_a_store_has_to_be_there(path: Path) -> None:
    with pytest.raises(StoreLoadError, match="there is no store at"):
        async with open_sqlite_store(path, None):
            pass
    assert not path.exists()
