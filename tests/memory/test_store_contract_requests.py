"""Receipts, callers at the same time, and embeddings that are not fit to be kept."""

import asyncio

import numpy as np
import pytest

from service.errors import IdempotencyKeyReused, InvalidInput
from service.memory.model import Draft, Embedding, Receipt
from service.memory.store import MemoryStore, Order
from tests.memory.memories import (
    NOW,
    UNFIT,
    at,
    draft,
    embedding,
    one,
    outcomes,
    remember,
    selected,
    whole_draft,
)

pytestmark = pytest.mark.anyio


def receipt(key: str = "key", fingerprint: str = "request") -> Receipt:
    return Receipt(key=key, fingerprint=fingerprint, results=())


async def test_a_receipt_is_kept_with_the_results(store: MemoryStore, tenant: str) -> None:
    assert await store.receipt(tenant, "key") is None
    drafts = [whole_draft(id="a"), draft("other", supersedes="none"), whole_draft()]
    results = await store.remember(tenant, drafts, now=NOW, receipt=receipt())
    assert await store.receipt(tenant, "key") == Receipt(
        key="key", fingerprint="request", results=tuple(results)
    )


async def test_the_same_request_again_writes_nothing_and_gives_the_kept_results(
    store: MemoryStore, tenant: str
) -> None:
    results = await store.remember(tenant, [draft("tea"), draft("tea")], now=NOW, receipt=receipt())
    again = await store.remember(tenant, [draft("milk")], now=at(5), receipt=receipt())
    assert again == results
    assert await store.count(selected(tenant)) == 1


async def test_a_kept_result_outlives_its_memory(store: MemoryStore, tenant: str) -> None:
    results = await store.remember(tenant, [draft("tea")], now=NOW, receipt=receipt())
    await store.delete(tenant, selected(tenant).filter, now=NOW)
    assert await store.remember(tenant, [draft("tea")], now=NOW, receipt=receipt()) == results
    assert await store.count(selected(tenant)) == 0


async def test_a_key_is_good_for_one_request_only(store: MemoryStore, tenant: str) -> None:
    await store.remember(tenant, [draft("tea")], now=NOW, receipt=receipt())
    with pytest.raises(IdempotencyKeyReused):
        await store.remember(tenant, [draft("milk")], now=NOW, receipt=receipt(fingerprint="other"))
    assert await store.count(selected(tenant)) == 1
    kept = await store.receipt(tenant, "key")
    assert kept is not None
    assert kept.fingerprint == "request"


async def test_another_key_is_another_request(store: MemoryStore, tenant: str) -> None:
    for key in ("one", "two"):
        await store.remember(tenant, [draft("tea")], now=NOW, receipt=receipt(key))
    first, second = await store.receipt(tenant, "one"), await store.receipt(tenant, "two")
    assert first is not None
    assert second is not None
    assert [first.results[0].outcome, second.results[0].outcome] == ["created", "duplicate"]


@pytest.mark.parametrize("unfit", UNFIT)
async def test_an_embedding_that_could_not_be_found_is_refused_with_all_drafts(
    store: MemoryStore, tenant: str, unfit: str
) -> None:
    drafts = [draft("tea", tags=("new",)), draft("milk", direction=UNFIT[unfit])]
    with pytest.raises(InvalidInput):
        await store.remember(tenant, drafts, now=NOW, receipt=receipt())
    assert await store.count(selected(tenant)) == 0
    assert await store.tags(selected(tenant)) == []
    assert await store.receipt(tenant, "key") is None


async def test_an_embedding_is_of_unit_length_to_a_thousandth(
    store: MemoryStore, tenant: str
) -> None:
    directions: list[Embedding] = [
        np.float32(length) * embedding(1, 1) for length in (0.9991, 1.0009)
    ]
    assert (
        await outcomes(
            store,
            tenant,
            *(draft(str(number), direction=given) for number, given in enumerate(directions)),
        )
        == ["created"] * 2
    )
    matches = await store.search_embedding(selected(tenant), embedding(1), limit=5)
    assert [match.similarity for match in matches] == pytest.approx([0.5**0.5] * 2, abs=2e-6)


async def concurrently(store: MemoryStore, tenant: str, drafts: list[Draft]) -> list[str]:
    results = await asyncio.gather(*(outcomes(store, tenant, given) for given in drafts))
    return sorted(outcome for (outcome,) in results)


async def test_the_same_content_from_many_at_once_is_created_once(
    store: MemoryStore, tenant: str
) -> None:
    drafts = [draft("tea", tags=("a",), context="c") for _ in range(8)]
    assert await concurrently(store, tenant, drafts) == ["created"] + ["duplicate"] * 7
    assert await store.count(selected(tenant)) == 1


async def test_one_id_for_many_contents_at_once_is_created_once(
    store: MemoryStore, tenant: str
) -> None:
    drafts = [draft(f"tea {number}", id="a") for number in range(8)]
    assert await concurrently(store, tenant, drafts) == ["conflict"] * 7 + ["created"]


async def test_of_many_successors_at_once_one_supersedes(store: MemoryStore, tenant: str) -> None:
    await remember(store, tenant, draft("tea", id="a"))
    drafts = [draft(f"tea {number}", supersedes="a") for number in range(8)]
    assert await concurrently(store, tenant, drafts) == ["already_superseded"] * 7 + ["created"]
    assert len(await store.history(selected(tenant), "a")) == 2


async def test_of_many_replacements_at_once_each_is_a_version(
    store: MemoryStore, tenant: str
) -> None:
    drafts = [draft(f"tea {number}", id="a", replace=True) for number in range(8)]
    assert await concurrently(store, tenant, drafts) == ["created"] + ["replaced"] * 7
    assert (await one(store, tenant, "a")).version == 8


async def test_one_key_from_many_at_once_is_carried_out_once(
    store: MemoryStore, tenant: str
) -> None:
    results = await asyncio.gather(
        *(
            store.remember(tenant, [draft(f"tea {number}")], now=NOW, receipt=receipt())
            for number in range(8)
        )
    )
    assert all(result == results[0] for result in results)
    found = await store.page(selected(tenant), order=Order(), after=None, limit=5)
    assert [results[0][0].memory] == found
