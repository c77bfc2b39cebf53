import asyncio
import logging
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.errors import StoreUnavailable
from service.memory.filters import EVERYTHING, parse_filter
from service.memory.sqlite_store import SqliteStore, open_sqlite_store
from tests.memory.memories import (
    MODEL,
    NOW,
    at,
    draft,
    embedding,
    everything,
    random_embeddings,
    relation,
    remember,
    selected,
)
from tests.memory.sqlite_stores import change, database, fill

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "memories.db"


@pytest.fixture
async def store(anyio_backend: str, path: Path) -> AsyncIterator[SqliteStore]:
    async with open_sqlite_store(path, MODEL) as store:
        yield store


async def test_a_call_that_fails_takes_nothing_of_the_others_with_it(store: SqliteStore) -> None:
    broken = draft("half of a pair: \ud800", direction=embedding(0, 1))
    calls = [
        remember(store, "t", draft("one")),
        remember(store, "t", draft("before it"), broken),
        remember(store, "t", draft("two")),
    ]
    first, failed, second = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(failed, UnicodeEncodeError)
    assert not isinstance(first, BaseException)
    assert not isinstance(second, BaseException)
    found = await store.search_embedding(selected("t"), embedding(), limit=10)
    assert {match.id for match in found} == {
        result.memory.id for result in (*first, *second) if result.memory
    }


async def test_a_change_to_a_memory_of_the_same_transaction_is_found(store: SqliteStore) -> None:
    first, second = draft("one", id="one"), draft("two", supersedes="one")
    await asyncio.gather(remember(store, "t", first), remember(store, "t", second))
    current = selected("t", {"valid_to": None})
    (match,) = await store.search_embedding(current, embedding(), limit=10)
    assert match.id == second.memory.id


async def test_a_cancelled_call_is_carried_out_whole_or_not_at_all(store: SqliteStore) -> None:
    calls = [
        asyncio.create_task(
            remember(store, "t", draft(f"{number} a"), draft(f"{number} b", user_id="b"))
        )
        for number in range(20)
    ]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    kept = [
        record.memory.content for record in await store.records("t", now=NOW, after=None, limit=99)
    ]
    numbers = {content.split()[0] for content in kept}
    assert sorted(kept) == sorted(f"{n} {part}" for n in numbers for part in "ab")
    assert {str(number) for number in range(1, 20, 2)} <= numbers


async def test_a_full_disk_refuses_writes_and_leaves_nothing_half_written(
    store: SqliteStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(store, "t", 5)
    before = await everything(store, "t")
    written = path.with_name(f"{path.name}-wal").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with caplog.at_level(logging.CRITICAL):
        resource.setrlimit(resource.RLIMIT_FSIZE, (written + 20_000, limits[1]))
        try:
            with pytest.raises(StoreUnavailable, match="the database does not answer"):
                await fill(store, "t", 50, seed=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert await everything(store, "t") == before
    await fill(store, "t", 50, seed=1)
    assert await store.count(selected("t")) == 55


async def test_nothing_is_left_of_what_was_deleted(store: SqliteStore, path: Path) -> None:
    await fill(store, "t", 20)
    await change(store)
    await store.delete("t", parse_filter({"tags": "tag 1"}), now=NOW)
    with database(path) as connection:
        connection.execute("INSERT INTO fts (fts, rank) VALUES ('integrity-check', 1)")
        assert not connection.execute("PRAGMA foreign_key_check").fetchall()
        (memories,) = connection.execute("SELECT count(*) FROM memory").fetchone()
        for table in ("text", "embedding", "code"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (memories,)
    await store.delete("t", EVERYTHING, now=NOW)
    await store.delete("another", EVERYTHING, now=NOW)
    with database(path) as connection:
        for table in ("memory", "text", "embedding", "code", "tag", "metadata", "relation"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        connection.execute("INSERT INTO fts (fts, rank) VALUES ('integrity-check', 1)")


async def test_ping_notices_that_the_file_is_gone(store: SqliteStore, path: Path) -> None:
    await store.ping()
    path.rename(path.with_name("moved.db"))
    with pytest.raises(StoreUnavailable, match="not the store any more"):
        await store.ping()


async def test_a_closed_store_says_so(path: Path) -> None:
    async with open_sqlite_store(path, MODEL) as store:
        await fill(store, "t", 1)
    with pytest.raises(StoreUnavailable, match="is closed"):
        await store.count(selected("t"))
    with pytest.raises(StoreUnavailable, match="is closed"):
        await remember(store, "t", draft("more"))


async def test_searches_see_whole_writes_while_others_write(store: SqliteStore) -> None:
    directions = random_embeddings(30)
    await remember(store, "t", *(draft(f"base {n}", direction=d) for n, d in enumerate(directions)))
    writing = True

    async def write() -> None:
        nonlocal writing
        for number in range(40):
            pair = [
                draft(f"{number} {part}", id=f"{number} {part}", direction=directions[number % 30])
                for part in "ab"
            ]
            await remember(store, "t", *pair)
            await store.delete(
                "t", parse_filter({"id": {"in": [one.memory.id for one in pair]}}), now=NOW
            )
        writing = False

    async def search() -> None:
        while writing:
            found = await store.search_embedding(selected("t"), directions[0], limit=100)
            assert len(found) in (30, 32)
            assert len(await store.search_embedding(selected("t"), directions[1], limit=30)) == 30

    await asyncio.gather(write(), search(), search())


async def test_relations_to_what_is_forgotten_do_not_count(store: SqliteStore) -> None:
    await remember(store, "t", draft("a", id="a"), draft("b", id="b", expires_at=at(1)))
    assert await store.relate("t", [relation("a", "b")]) == []
    assert (await store.stats("t", now=NOW)).relations == 1
    assert (await store.stats("t", now=at(1))).relations == 0
    assert (await store.delete("t", EVERYTHING, now=at(1), dry_run=True)).relations == 0
