from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.embedding.batching import Cores, Cost, Plan
from service.embedding.cache import ENTRY_BYTES, EmbeddingCache, embed_cached
from service.embedding.onnx_model import Embeddings
from service.embedding.scheduler import Scheduler, open_scheduler
from service.embedding.tokenization import TokenIds
from service.errors import InferenceError

pytestmark = pytest.mark.anyio

PLAN = Plan(workers=1, max_batch_tokens=64, one_core=Cost(0, 1), all_cores=Cost(0, 1))


def text(*ids: int) -> TokenIds:
    return np.array(ids, np.int64)


def row(value: float) -> Embeddings:
    return np.array([value, 0.0], np.float32)


def size(ids: TokenIds) -> int:
    return 4 * len(ids) + 8 + ENTRY_BYTES


def run(tokens: Sequence[TokenIds], cores: Cores) -> Embeddings:
    """Gives each text its first id and its length as embedding; fails on ids below zero."""
    if any(ids[0] < 0 for ids in tokens):
        raise ValueError("an id below zero")
    return np.array([(ids[0], len(ids)) for ids in tokens], np.float32)


@pytest.fixture
async def scheduler(anyio_backend: str) -> AsyncIterator[Scheduler]:
    async with open_scheduler(run, PLAN, max_queued_tokens=20) as scheduler:
        yield scheduler


def test_what_was_put_is_found_by_exactly_its_tokens() -> None:
    cache = EmbeddingCache(10_000)
    cache.put(text(1, 2), row(0.5))
    found = cache.get(text(1, 2))
    assert found is not None
    assert found.tolist() == [0.5, 0.0]
    assert cache.get(text(1)) is None
    assert cache.get(text(1, 2, 0)) is None
    assert cache.get(text(2, 1)) is None


def test_hits_and_misses_are_counted() -> None:
    cache = EmbeddingCache(10_000)
    cache.put(text(1), row(0.5))
    for ids in (text(1), text(1), text(2)):
        cache.get(ids)
    info = cache.info()
    assert (info.hits, info.misses, info.entries) == (2, 1, 1)
    assert (info.bytes, info.max_bytes) == (size(text(1)), 10_000)


def test_the_stalest_makes_room() -> None:
    cache = EmbeddingCache(2 * size(text(0)))
    cache.put(text(1), row(1))
    cache.put(text(2), row(2))
    cache.get(text(1))
    cache.put(text(3), row(3))
    assert [cache.get(text(n)) is not None for n in (1, 2, 3)] == [True, False, True]


def test_what_is_larger_than_the_cache_throws_nothing_out() -> None:
    cache = EmbeddingCache(size(text(0)))
    cache.put(text(1), row(1))
    cache.put(text(*range(50)), row(2))
    assert cache.get(text(1)) is not None
    assert cache.info().entries == 1


def test_what_is_kept_cannot_be_changed() -> None:
    cache = EmbeddingCache(10_000)
    given = row(0.5)
    cache.put(text(1), given)
    given[:] = 9
    found = cache.get(text(1))
    assert found is not None
    with pytest.raises(ValueError, match="read-only"):
        found[:] = 9
    assert found.tolist() == [0.5, 0.0]


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6)))
def test_the_bound_holds_and_the_bytes_are_those_of_the_entries(texts: list[list[int]]) -> None:
    cache = EmbeddingCache(700)
    for ids in texts:
        cache.put(text(*ids), row(1))
        assert cache.info().bytes <= 700
    entries = {tuple(ids) for ids in texts}
    kept = [size(text(*ids)) for ids in entries if cache.get(text(*ids)) is not None]
    assert (cache.info().entries, cache.info().bytes) == (len(kept), sum(kept))


async def test_only_what_is_missing_is_scheduled(scheduler: Scheduler) -> None:
    cache = EmbeddingCache(10_000)
    texts = [text(1, 1), text(2), text(3, 3, 3)]
    await embed_cached(cache, scheduler, [texts[1]], "interactive")
    some = await embed_cached(cache, scheduler, texts, "bulk")
    assert some.embeddings.tolist() == [[1, 2], [2, 1], [3, 3]]
    scheduler.close()
    every = await embed_cached(cache, scheduler, texts[::-1], "interactive")
    assert every.embeddings.tolist() == [[3, 3], [2, 1], [1, 2]]
    assert every.queue_seconds == every.inference_seconds == 0
    assert (cache.info().hits, cache.info().misses) == (4, 3)


async def test_an_answer_is_its_receivers_own(scheduler: Scheduler) -> None:
    cache = EmbeddingCache(10_000)
    for texts in ([text(1)], [text(1)], [text(1), text(2)]):
        embedded = await embed_cached(cache, scheduler, texts, "interactive")
        assert embedded.embeddings[0].tolist() == [1, 1]
        embedded.embeddings[:] = 9


async def test_more_than_fits_into_the_queue_is_embedded_where_the_rest_is_kept(
    scheduler: Scheduler,
) -> None:
    cache = EmbeddingCache(10_000)
    texts = [text(*[n] * 12) for n in range(5)]
    for ids in texts:
        await embed_cached(cache, scheduler, [ids], "bulk")
    embedded = await embed_cached(cache, scheduler, [*texts, text(7)], "bulk")
    assert len(embedded.embeddings) == 6


async def test_a_failure_names_the_text_of_the_request_and_keeps_nothing(
    scheduler: Scheduler,
) -> None:
    cache = EmbeddingCache(10_000)
    await embed_cached(cache, scheduler, [text(1), text(2)], "interactive")
    with pytest.raises(InferenceError, match="the model failed on text 2"):
        await embed_cached(cache, scheduler, [text(1), text(2), text(-1)], "interactive")
    assert cache.info().entries == 2
