import logging
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.memory.sqlite_opening import snapshot_of
from service.memory.sqlite_store import open_sqlite_store
from service.memory.store import EmbeddingModel
from tests.memory.memories import (
    MODEL,
    draft,
    embedding,
    everything,
    ids_by_words,
    remember,
    selected,
)
from tests.memory.sqlite_stores import change, database, fill

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "memories.db"


async def test_a_stale_snapshot_and_a_kill_give_the_answers_of_no_snapshot(path: Path) -> None:
    async with open_sqlite_store(path, MODEL) as store:
        await fill(store, "t", 20)
    stale = snapshot_of(path).read_bytes()
    async with open_sqlite_store(path, MODEL) as store:
        await change(store)
        expected = await everything(store, "t")
        # What a process leaves that is killed now.
        copy = path.with_name("copy.db")
        for suffix in ("", "-wal"):
            copy.with_name(copy.name + suffix).write_bytes(
                path.with_name(path.name + suffix).read_bytes()
            )
    for snapshot in (stale, stale[:-1], None):
        if snapshot is None:
            snapshot_of(copy).unlink()
        else:
            snapshot_of(copy).write_bytes(snapshot)
        async with open_sqlite_store(copy, MODEL) as store:
            assert await everything(store, "t") == expected


async def test_a_snapshot_of_a_copy_that_went_its_own_way_is_not_used(path: Path) -> None:
    async with open_sqlite_store(path, MODEL) as store:
        await fill(store, "t", 5)
    copy = path.with_name("copy.db")
    copy.write_bytes(path.read_bytes())
    async with open_sqlite_store(path, MODEL) as store:
        await change(store)
    async with open_sqlite_store(copy, MODEL) as store:
        await fill(store, "t", 30, seed=5)
        expected = await everything(store, "t")
    snapshot_of(copy).write_bytes(snapshot_of(path).read_bytes())
    async with open_sqlite_store(copy, MODEL) as store:
        assert await everything(store, "t") == expected


async def test_what_the_snapshot_has_is_not_read_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service.memory.sqlite_store")
    for _ in range(2):
        async with open_sqlite_store(path, MODEL) as store:
            await fill(store, "t", 5)
    assert caplog.messages[0].endswith("s, all read from the database")
    assert "with 5 memories" in caplog.messages[1]
    assert not caplog.messages[1].endswith("database")


async def test_the_matrix_is_kept_now_and_then(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.memory.sqlite_store.SNAPSHOT_ROWS", 10)
    async with open_sqlite_store(path, MODEL) as store:
        for seed in range(1_000):
            await fill(store, "t", 5, seed=seed)
            if snapshot_of(path).exists():
                break
        assert snapshot_of(path).exists()
        expected = await everything(store, "t")
    async with open_sqlite_store(path, MODEL) as store:
        assert await everything(store, "t") == expected


async def test_re_embedding_leaves_a_store_that_searches_and_opens_again(path: Path) -> None:
    async with open_sqlite_store(path, MODEL) as store:
        ids = await fill(store, "t", 20)
    wider = EmbeddingModel(name="wider", digest="c" * 64, dimensions=24)
    embeddings = np.eye(24, dtype=np.float32)[: len(ids)]
    async with open_sqlite_store(path, wider, re_embedding=True) as store:
        assert await store.start_re_embedding(wider) is None
        await store.replace_embeddings("t", sorted(ids), embeddings)
        await store.finish_re_embedding()
        first = await store.search_embedding(selected("t"), embeddings[3], limit=1)
        await remember(store, "t", draft("and on", direction=embeddings[0]))
    async with open_sqlite_store(path, wider) as store:
        assert await store.search_embedding(selected("t"), embeddings[3], limit=1) == first
        assert first[0].id == sorted(ids)[3]
        assert await store.count(selected("t")) == 21


WRITING = """
import asyncio, sys
from pathlib import Path
from service.memory.sqlite_store import open_sqlite_store
from tests.memory.memories import MODEL, draft, random_embeddings, remember

async def write():
    async with open_sqlite_store(Path(sys.argv[1]), MODEL) as store:
        async def client(name):
            for number, direction in enumerate(random_embeddings(10_000, seed=name)):
                id = f"{sys.argv[2]}-{name}-{number}"
                await remember(store, "t", draft(id, id=id, direction=direction, tags=("a",)))
                print(id, flush=True)
        await asyncio.gather(*map(client, range(4)))

asyncio.run(write())
"""


@pytest.mark.slow
async def test_what_was_acknowledged_is_there_after_kills(path: Path) -> None:
    acknowledged: list[str] = []
    for run in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITING, str(path), str(run)], stdout=subprocess.PIPE, text=True
        )
        with process:
            assert process.stdout is not None
            for _ in range(40 + 37 * run):
                acknowledged.append(process.stdout.readline().strip())
            process.send_signal(signal.SIGKILL)
            acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
        async with open_sqlite_store(path, MODEL) as store:
            kept = await store.get(selected("t"), acknowledged)
            assert None not in kept
            found = await store.search_embedding(selected("t"), embedding(), limit=100_000)
            assert set(acknowledged) <= {match.id for match in found}
            assert len(found) == await store.count(selected("t"))
            words = await ids_by_words(store, selected("t"), ["0", "1"], limit=5)
            assert len(words) == 5
    with database(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.execute("INSERT INTO fts (fts, rank) VALUES ('integrity-check', 1)")
