import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.embedding.batching import Cores, Cost, Plan, Priority
from service.embedding.onnx_model import Embeddings
from service.embedding.scheduler import open_scheduler
from service.embedding.tokenization import TokenIds
from service.errors import BatchTooLarge, InferenceError, Overloaded
from tests.embedding.scheduling import (
    COST,
    Model,
    begin,
    cancel,
    held,
    scheduler_of,
    settle,
    text,
    texts,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("workers", [1, 2])
async def test_embeddings_come_in_the_order_of_the_request(workers: int) -> None:
    lengths = [30, 1, 100, 2, 99, 50]
    async with scheduler_of(Model(), workers=workers) as scheduler:
        result = await scheduler.embed([text(i, length=n) for i, n in enumerate(lengths)], "bulk")
    assert result.embeddings.tolist() == [[i, n] for i, n in enumerate(lengths)]
    assert result.embeddings.dtype == np.float32
    assert result.queue_seconds >= 0
    assert result.inference_seconds > 0


async def test_texts_of_similar_length_share_a_batch_across_requests() -> None:
    model = Model()
    async with held(model) as (scheduler, requests):
        for first, (short, long) in enumerate([(10, 60), (11, 62), (10, 61)]):
            requests.append(begin(scheduler, [text(first, length=short), text(first, length=long)]))
    assert sorted(map(sorted, model.batches)) == [[10, 10, 11], [60, 61, 62]]


async def test_a_text_longer_than_a_batch_may_be_runs_alone() -> None:
    model = Model()
    async with scheduler_of(model, max_batch_tokens=16) as scheduler:
        await scheduler.embed(texts(2, length=40), "bulk")
    assert model.batches == [[40], [40]]


async def test_the_text_that_waits_longest_is_in_the_next_batch() -> None:
    model = Model()
    async with held(model, max_batch_tokens=20) as (scheduler, requests):
        requests.append(begin(scheduler, texts(1, length=20)))
        await settle()
        requests.append(begin(scheduler, texts(8, length=5)))
    assert model.batches == [[20], [5] * 4, [5] * 4]


async def test_interactive_texts_go_before_bulk_ones_that_came_earlier() -> None:
    model = Model()
    async with held(model) as (scheduler, requests):
        requests.append(begin(scheduler, texts(2, length=5)))
        requests.append(begin(scheduler, [text(9, length=5)], "interactive"))
    assert model.batches == [[5], [5, 5]]
    assert model.texts == [9, 1, 2]


async def test_bulk_texts_do_not_starve_behind_interactive_ones() -> None:
    model = Model()
    async with held(model, max_batch_tokens=10) as (scheduler, requests):
        requests.append(begin(scheduler, texts(1, length=3)))
        requests.append(begin(scheduler, texts(9, length=10, first=100), "interactive"))
    assert model.batches == [[10]] * 4 + [[3]] + [[10]] * 5


async def test_workers_compute_a_request_at_the_same_time() -> None:
    model = Model()
    async with scheduler_of(model, workers=2) as scheduler:
        model.may_run.clear()
        request = begin(scheduler, texts(6, length=8))
        await model.until_started()
        await model.until_started()
        model.may_run.set()
        assert await request == [[first, 8] for first in range(1, 7)]
    assert model.batches == [[8] * 3, [8] * 3]
    assert model.cores == ["one", "one"]


async def test_a_text_alone_is_computed_on_all_cores_and_the_next_beside_it_on_one() -> None:
    model = Model()
    plan = Plan(2, 256, one_core=COST, all_cores=Cost(4, 0.5))
    async with open_scheduler(model, plan, max_queued_tokens=100) as scheduler:
        holding = await model.hold(scheduler, workers=2)
        model.may_run.set()
        await asyncio.gather(*holding)
    assert sorted(model.cores) == ["all", "one"]


async def test_a_worker_alone_has_all_cores() -> None:
    model = Model()
    async with held(model) as (scheduler, requests):
        requests.append(begin(scheduler, texts(2, length=5)))
    assert model.cores == ["all"]


async def test_what_does_not_fit_is_refused_as_a_whole() -> None:
    model = Model()
    async with held(model, max_queued_tokens=100) as (scheduler, _):
        with pytest.raises(Overloaded, match="1 tokens are queued, and with 100 more"):
            await scheduler.embed(texts(2, length=50), "bulk")
        waiting = begin(scheduler, [text(3, length=99)])
        await settle()
        with pytest.raises(Overloaded) as refusal:
            scheduler.check_room()
        assert refusal.value.retry_after > 0
        model.may_run.set()
        await waiting
        assert scheduler.queued_tokens == 0
        scheduler.check_room(100)
    assert model.batches == [[99]]


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_time_to_wait_comes_from_the_measured_rate(workers: int) -> None:
    model = Model()
    async with scheduler_of(model, workers=workers) as scheduler:
        for first in range(50):
            await scheduler.embed(texts(2, length=100, first=first), "bulk")
        holding = await model.hold(scheduler, workers=workers)
        holding.append(begin(scheduler, [text(1, length=1_000 - workers)]))
        await settle()
        with pytest.raises(Overloaded) as one:
            scheduler.check_room(1)
        with pytest.raises(Overloaded) as hundred:
            scheduler.check_room(100)
        model.may_run.set()
        await asyncio.gather(*holding)
    assert hundred.value.retry_after == pytest.approx(100 * one.value.retry_after)


async def test_what_could_never_fit_is_refused_as_too_large() -> None:
    async with scheduler_of(Model(), max_queued_tokens=100) as scheduler:
        with pytest.raises(BatchTooLarge, match="more than 100 tokens together"):
            await scheduler.embed([text(1, length=101)], "bulk")


async def test_equal_texts_in_flight_are_computed_once_whoever_wants_them() -> None:
    model = Model()
    async with held(model, max_queued_tokens=31) as (scheduler, _):
        first = begin(scheduler, [text(5, length=10), text(6, length=10), text(5, length=10)])
        second = begin(scheduler, [text(7, length=10), text(6, length=10)], "bulk")
        await settle()
        assert scheduler.queued_tokens == 31
        model.may_run.set()
        assert await first == [[5, 10], [6, 10], [5, 10]]
        assert await second == [[7, 10], [6, 10]]
        assert scheduler.queued_tokens == 0
    assert sorted(model.texts) == [5, 6, 7]


async def test_a_text_that_is_running_is_not_computed_again() -> None:
    model = Model()
    async with scheduler_of(model, max_queued_tokens=10) as scheduler:
        model.may_run.clear()
        first = begin(scheduler, [text(5, length=10)])
        await model.until_started()
        second = begin(scheduler, [text(5, length=10)])
        await settle()
        model.may_run.set()
        assert await first == await second == [[5, 10]]
    assert model.texts == [5]


async def test_requests_for_the_same_text_share_no_memory() -> None:
    model = Model()
    async with held(model) as (scheduler, _):
        requests = [asyncio.create_task(scheduler.embed(texts(1, length=3), "bulk")) for _ in "ab"]
        await settle()
        model.may_run.set()
        first, second = await asyncio.gather(*requests)
    first.embeddings[:] = 0
    assert second.embeddings.tolist() == [[1, 3]]


async def test_a_bulk_text_that_an_interactive_request_wants_too_is_interactive() -> None:
    model = Model()
    async with held(model) as (scheduler, requests):
        requests.append(begin(scheduler, texts(3, length=10)))
        requests.append(begin(scheduler, [text(2, length=10)], "interactive"))
    assert model.texts == [2, 1, 3]


async def test_a_text_is_computed_while_one_request_still_wants_it() -> None:
    model = Model()
    async with held(model) as (scheduler, _):
        gone = begin(scheduler, [text(5, length=10), text(6, length=10)])
        stays = begin(scheduler, [text(6, length=10)])
        await settle()
        await cancel(gone)
        assert scheduler.queued_tokens == 11
        model.may_run.set()
        assert await stays == [[6, 10]]
    assert model.texts == [6]


async def test_texts_of_a_cancelled_request_are_not_computed() -> None:
    model = Model()
    async with held(model, max_queued_tokens=100) as (scheduler, requests):
        cancelled = begin(scheduler, texts(3, length=33))
        await settle()
        assert scheduler.queued_tokens == 100
        await cancel(cancelled)
        assert scheduler.queued_tokens == 1
        requests.append(begin(scheduler, [text(2, length=99)]))
    assert model.batches == [[99]]


async def test_a_request_cancelled_while_it_is_computed_leaves_the_others_alone() -> None:
    model = Model()
    async with scheduler_of(model, max_queued_tokens=100) as scheduler:
        (computed,) = await model.hold(scheduler)
        computed.cancel()
        kept = begin(scheduler, [text(2, length=99)])
        await settle()
        model.may_run.set()
        assert await kept == [[2, 99]]
        assert scheduler.queued_tokens == 0


async def test_closing_finishes_what_was_accepted_and_takes_nothing_more() -> None:
    model = Model()
    before = set(threading.enumerate())
    async with scheduler_of(model, workers=2) as scheduler:
        holding = await model.hold(scheduler, workers=2)
        accepted = begin(scheduler, [text(5, length=3)])
        await settle()
        scheduler.close()
        with pytest.raises(Overloaded, match="shutting down"):
            await scheduler.embed([text(6, length=3)], "bulk")
        model.may_run.set()
    assert await asyncio.gather(*holding) == [[[1_000, 1]], [[1_001, 1]]]
    assert await accepted == [[5, 3]]
    assert scheduler.workers_alive == 0
    left = set(threading.enumerate()) - before
    assert not [thread for thread in left if thread.name.startswith("inference")]


async def test_the_event_loop_is_woken_once_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    loop = asyncio.get_running_loop()
    woken: list[str] = []
    wake = loop.call_soon_threadsafe

    def count(*args: object) -> object:
        woken.append(threading.current_thread().name)
        return wake(*args)  # type: ignore[arg-type]

    async with scheduler_of(model) as scheduler:
        holding = await model.hold(scheduler)
        requests = [begin(scheduler, [text(first, length=3)]) for first in range(20)]
        await settle()
        monkeypatch.setattr(loop, "call_soon_threadsafe", count)
        model.may_run.set()
        await asyncio.gather(*holding, *requests)
    assert woken.count("inference-0") == 2
    assert model.batches == [[1], [3] * 20]


Asked = tuple[Priority, list[tuple[int, int]], bool]  # first ids and lengths; whether cancelled
WANTED = st.tuples(st.integers(0, 5), st.integers(1, 80))
ASKED = st.tuples(
    st.sampled_from(["interactive", "bulk"]),
    st.lists(WANTED, min_size=1, max_size=20),
    st.booleans(),
)


@settings(max_examples=100)
@given(
    requests=st.lists(ASKED, min_size=1, max_size=10),
    workers=st.integers(1, 3),
    failing=st.sets(WANTED, max_size=5),
    killing=st.sets(WANTED, max_size=2),
)
def test_every_request_is_answered_in_order_or_fails(
    requests: list[Asked],
    workers: int,
    failing: set[tuple[int, int]],
    killing: set[tuple[int, int]],
) -> None:
    batches: list[list[int]] = []

    def run(tokens: Sequence[TokenIds], cores: Cores) -> Embeddings:
        texts = {(int(ids[0]), len(ids)) for ids in tokens}
        assert len(texts) == len(tokens)
        batches.append([len(ids) for ids in tokens])
        if texts & failing:
            raise ValueError("it fails")
        if texts & killing:
            raise SystemExit
        return np.array([(ids[0], len(ids)) for ids in tokens], np.float32)

    async def scenario() -> list[object]:
        plan = Plan(workers, 256, one_core=COST, all_cores=COST, borders=(64,))
        async with open_scheduler(run, plan, max_queued_tokens=10**6) as scheduler:
            tasks = []
            for priority, wanted, cancelled in requests:
                ids = [text(first, length=length) for first, length in wanted]
                tasks.append(begin(scheduler, ids, priority))
                await asyncio.sleep(0)
                if cancelled:
                    tasks[-1].cancel()
        assert scheduler.queued_tokens == 0
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(scenario())
    for (_, wanted, cancelled), result in zip(requests, results, strict=True):
        if isinstance(result, asyncio.CancelledError):
            assert cancelled
        elif isinstance(result, InferenceError):
            assert killing or failing & set(wanted)
        else:
            assert result == [[first, length] for first, length in wanted]
            assert not (failing | killing) & set(wanted)
    for lengths in batches:
        assert len(lengths) * max(lengths) <= 256
        assert max(lengths) <= 64 or min(lengths) > 64
