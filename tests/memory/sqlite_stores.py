"""What tests of the embedded store fill it with, and look into it by."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from service.memory.filters import parse_filter
from service.memory.model import NewRelation
from service.memory.sqlite_store import SqliteStore
from service.memory.store import EmbeddingModel
from tests.memory.memories import (
    DIMENSIONS,
    NOW,
    draft,
    embedding,
    random_embeddings,
    remember,
    selected,
)

OTHER_MODEL = EmbeddingModel(name="other", digest="b" * 64, dimensions=DIMENSIONS)


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection beside the store's, or after it."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


async def fill(store: SqliteStore, tenant: str, count: int, *, seed: int = 0) -> list[str]:
    """The ids of memories with tags, metadata and relations, that were just remembered."""
    drafts = [
        draft(
            f"content {seed} {number}",
            direction=direction,
            id=f"id-{seed}-{number}",
            tags=(f"tag {number % 3}",),
            metadata={"number": number},
            user_id=f"user {number % 4}",
            relations=[NewRelation(target=f"id-{seed}-0", relation_type="CAUSES")] * (number > 0),
        )
        for number, direction in enumerate(random_embeddings(count, seed=seed))
    ]
    await remember(store, tenant, *drafts)
    return [draft.memory.id for draft in drafts]


async def change(store: SqliteStore) -> None:
    """Add, change, supersede and delete."""
    await fill(store, "t", 10, seed=1)
    (old,) = await store.get(selected("t"), ["id-0-1"])
    assert old is not None
    changed = msgspec.structs.replace(old, content="changed", importance=1.0, context="work/x")
    await store.update("t", changed, embedding(0, 1), expected_version=1)
    await remember(store, "t", draft("newer", supersedes="id-0-2", direction=embedding(0, 0, 1)))
    await store.delete("t", parse_filter({"metadata.number": {"in": [3, 4, 9]}}), now=NOW)
    await fill(store, "another", 3, seed=2)
