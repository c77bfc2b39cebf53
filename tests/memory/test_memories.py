import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from service.embedding.embedder import Embedder
from service.embedding.manifest import read_manifest
from service.errors import Conflict, IdempotencyKeyReused, InferenceError, MemoryNotFound
from service.memory.filters import EVERYTHING
from service.memory.memories import (
    RECEIPTS_KEPT,
    Kept,
    Memories,
    RequestKey,
    embedding_model_of,
    fingerprint,
)
from service.memory.model import Memory
from service.memory.new_memory import Changes, NewMemory, Successor
from service.memory.sqlite_store import open_sqlite_store
from service.memory.store import Order
from service.opening import open_embedder_of
from service.settings import Settings
from tests.memory.memories import NOW, at

pytestmark = pytest.mark.anyio

TENANT = "tenant"


@dataclass
class Clock:
    """Stands still until it is set."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def memories(
    embedder: Embedder, starter_bundle: Path, tmp_path: Path, clock: Clock
) -> AsyncIterator[Memories]:
    """The use cases on an empty store, with the starter model."""
    model = embedding_model_of(read_manifest(starter_bundle))
    async with open_sqlite_store(tmp_path / "memory.db", model) as store:
        yield Memories(store, embedder, relevance_cutoff=0.3, clock=clock)


async def remember(memories: Memories, *given: NewMemory) -> list[Kept]:
    kept, replayed = await memories.remember(TENANT, given)
    assert not replayed
    return kept


async def known(memories: Memories, id: str) -> bool:
    try:
        await memories.get(TENANT, id)
    except MemoryNotFound:
        return False
    return True


async def everything(memories: Memories) -> list[Memory]:
    selection = memories.select(TENANT, ever=True)
    return (await memories.page(selection, order=Order(), after=None, limit=100)).memories


async def test_a_memory_is_forgotten_from_the_time_that_was_set(
    memories: Memories, clock: Clock
) -> None:
    await remember(memories, NewMemory(content="Ada likes tea.", id="tea", expires_at=at(10)))
    clock.now = at(10) - timedelta(microseconds=1)
    assert await known(memories, "tea")
    clock.now = at(10)
    assert not await known(memories, "tea")
    with pytest.raises(MemoryNotFound):
        await memories.get(TENANT, "tea", as_of=at(5))
    assert await everything(memories) == []


async def test_what_is_forgotten_is_deleted_now_and_then(memories: Memories, clock: Clock) -> None:
    await remember(
        memories,
        NewMemory(content="Ada likes tea.", expires_at=at(10)),
        NewMemory(content="Ada likes coffee."),
    )
    assert await memories.purge() == 0
    clock.now = at(10)
    assert await memories.purge() == 1
    assert await memories.purge() == 0
    (left,) = await everything(memories)
    assert left.content == "Ada likes coffee."


async def test_the_id_of_a_forgotten_memory_is_free(memories: Memories, clock: Clock) -> None:
    given = NewMemory(content="Ada likes tea.", id="tea", expires_at=at(10))
    await remember(memories, given)
    clock.now = at(20)
    (kept,) = await remember(memories, NewMemory(content="Ada likes green tea.", id="tea"))
    assert kept.remembered.outcome == "created"


async def test_a_key_is_remembered_for_a_day(memories: Memories, clock: Clock) -> None:
    request = RequestKey("key", "digest")
    given = [NewMemory(content="Ada likes tea.")]
    await memories.remember(TENANT, given, request)
    clock.now = NOW + RECEIPTS_KEPT
    await memories.purge()
    _, replayed = await memories.remember(TENANT, given, request)
    assert replayed
    clock.now = NOW + RECEIPTS_KEPT + timedelta(seconds=1)
    await memories.purge()
    (kept,), replayed = await memories.remember(TENANT, given, request)
    assert (kept.remembered.outcome, replayed) == ("duplicate", False)


async def test_a_key_that_was_used_is_refused_for_another_request(memories: Memories) -> None:
    given = [NewMemory(content="Ada likes tea.")]
    await memories.remember(TENANT, given, RequestKey("key", "digest"))
    with pytest.raises(IdempotencyKeyReused):
        await memories.remember(TENANT, given, RequestKey("key", "other"))


def test_the_fingerprint_is_of_what_is_done_and_with_what() -> None:
    requests = [NewMemory(content="a"), NewMemory(content="b"), Successor(content="a")]
    prints = {
        fingerprint(action, request) for action in ("remember", "batch") for request in requests
    }
    assert len(prints) == 6
    assert fingerprint("remember", NewMemory(content="a")) in prints


async def test_a_page_leads_to_the_next_only_where_there_is_one(memories: Memories) -> None:
    await remember(memories, *(NewMemory(content=f"note {number}") for number in range(4)))
    selection, order = memories.select(TENANT), Order()
    first = await memories.page(selection, order=order, after=None, limit=2)
    assert first.next is not None
    second = await memories.page(selection, order=order, after=first.next, limit=2)
    assert second.next is None
    ids = {memory.id for memory in (*first.memories, *second.memories)}
    assert len(ids) == 4


async def test_of_many_changes_at_once_each_is_made_or_refused(memories: Memories) -> None:
    await remember(memories, NewMemory(content="Ada likes tea.", id="tea"))
    changes = (
        memories.change(TENANT, "tea", Changes(content=f"Ada likes tea number {number}."))
        for number in range(20)
    )
    results = await asyncio.gather(*changes, return_exceptions=True)
    made = [result for result in results if isinstance(result, Memory)]
    assert made
    assert all(isinstance(result, Memory | Conflict) for result in results)
    assert (await memories.get(TENANT, "tea")).version == 1 + len(made)


async def test_a_change_of_other_fields_leaves_the_embedding_as_it_is(memories: Memories) -> None:
    await remember(memories, NewMemory(content="Ada likes tea.", id="tea"))
    before = await memories.store.embeddings(TENANT, ["tea"])
    await memories.change(TENANT, "tea", Changes(tags=["a"], importance=0.9))
    assert np.array_equal(await memories.store.embeddings(TENANT, ["tea"]), before)
    await memories.change(TENANT, "tea", Changes(title="Drinks"))
    assert not np.array_equal(await memories.store.embeddings(TENANT, ["tea"]), before)


async def test_a_memory_is_embedded_as_a_document_with_its_title(
    memories: Memories, starter_bundle: Path
) -> None:
    await remember(memories, NewMemory(content="Ada likes tea.", title="Drinks", id="tea"))
    (embedding,) = await memories.store.embeddings(TENANT, ["tea"])
    embedded = await memories.embedder.embed(["Drinks\nAda likes tea."], prompt="")
    others = await memories.embedder.embed(["Ada likes tea."], prompt="")
    assert embedding @ embedded.embeddings[0] > embedding @ others.embeddings[0]


async def test_nothing_of_a_batch_is_kept_where_the_model_fails(
    fragile_bundle: Path, tmp_path: Path
) -> None:
    model = embedding_model_of(read_manifest(fragile_bundle))
    async with (
        open_embedder_of(Settings(model=fragile_bundle)) as embedder,
        open_sqlite_store(tmp_path / "memory.db", model) as store,
    ):
        memories = Memories(store, embedder, relevance_cutoff=0.3)
        given = [NewMemory(content="Ada likes tea."), NewMemory(content="volcano")]
        with pytest.raises(InferenceError):
            await memories.remember(TENANT, given)
        assert await store.count(memories.select(TENANT, ever=True)) == 0


async def test_memories_from_elsewhere_are_embedded_by_their_beginning(
    memories: Memories,
) -> None:
    kept = await remember(memories, NewMemory(content="tea " * 400, truncate=True))
    assert [each.truncated for each in kept] == [True]
    (embedding,) = await memories.embed_for_load(await everything(memories))
    assert embedding.shape == (384,)


async def test_a_dry_run_deletes_nothing(memories: Memories) -> None:
    await remember(memories, NewMemory(content="Ada likes tea."))
    assert (await memories.delete(TENANT, EVERYTHING, dry_run=True)).memories == 1
    assert (await memories.delete(TENANT, EVERYTHING)).memories == 1


def test_the_model_of_a_store_is_another_with_another_prompt(
    starter_bundle: Path, prompted_bundle: Path
) -> None:
    starter, prompted = (
        embedding_model_of(read_manifest(bundle)) for bundle in (starter_bundle, prompted_bundle)
    )
    assert starter.digest != prompted.digest
    assert starter.dimensions == prompted.dimensions == 384


def test_the_name_of_a_model_is_no_part_of_its_digest(starter_bundle: Path) -> None:
    manifest = read_manifest(starter_bundle)
    renamed = msgspec.structs.replace(manifest, name="renamed")
    assert embedding_model_of(renamed).digest == embedding_model_of(manifest).digest
