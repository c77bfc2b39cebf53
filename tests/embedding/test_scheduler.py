import asyncio
import threading
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.embedding.onnx_model import Embeddings
from service.embedding.scheduler import Scheduler, open_scheduler
from service.embedding.tokenization import TokenIds
from service.errors import BatchTooLarge, InferenceError, Overloaded

pytestmark = pytest.mark.anyio


class Model:
    """Gives each text its first id and its length as embedding; fails on ids below zero."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []  # of lengths
        self.may_run = threading.Event()
        self.may_run.set()
        self.runs = threading.Event()

    def __call__(self, tokens: Sequence[TokenIds]) -> Embeddings:
        self.runs.set()
        assert self.may_run.wait(10)
        self.batches.append([len(ids) for ids in tokens])
        if any(ids[0] < 0 for ids in tokens):
            raise ValueError("an id below zero")
        return np.array([(ids[0], len(ids)) for ids in tokens], np.float32)

    async def hold(self, scheduler: Scheduler) -> "asyncio.Task[object]":
        """Keep the worker busy with a text of one token until `may_run` is set."""
        self.may_run.clear()
        holding = asyncio.create_task(scheduler.embed([text(0, length=1)]))
        await asyncio.to_thread(self.runs.wait, 10)
        return holding


def text(first: int, *, length: int) -> TokenIds:
    return np.array([first] + [7] * (length - 1))


def scheduler_of(
    model: Model, *, max_batch_tokens: int = 256, max_queued_tokens: int = 1_000
) -> AbstractAsyncContextManager[Scheduler]:
    return open_scheduler(
        model, max_batch_tokens=max_batch_tokens, max_queued_tokens=max_queued_tokens
    )


async def settle() -> None:
    """Let tasks that were just created run until they wait."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_embeddings_come_in_the_order_of_the_request() -> None:
    lengths = [30, 1, 100, 2, 99, 50]
    async with scheduler_of(Model()) as scheduler:
        result = await scheduler.embed([text(i, length=n) for i, n in enumerate(lengths)])
    assert result.embeddings.tolist() == [[i, n] for i, n in enumerate(lengths)]
    assert result.embeddings.dtype == np.float32
    assert result.queue_seconds >= 0
    assert result.inference_seconds > 0


async def test_texts_of_similar_length_share_a_batch_across_requests() -> None:
    model = Model()
    async with scheduler_of(model) as scheduler:
        holding = await model.hold(scheduler)
        requests = [
            asyncio.create_task(scheduler.embed([text(1, length=short), text(2, length=long)]))
            for short, long in ((10, 60), (11, 62), (10, 61))
        ]
        await settle()
        model.may_run.set()
        await asyncio.gather(holding, *requests)
    assert sorted(map(sorted, model.batches)) == [[1], [10, 10, 11], [60, 61, 62]]


async def test_a_text_longer_than_a_batch_may_be_runs_alone() -> None:
    model = Model()
    async with scheduler_of(model, max_batch_tokens=16) as scheduler:
        await scheduler.embed([text(1, length=40), text(2, length=40)])
    assert model.batches == [[40], [40]]


async def test_the_text_that_waits_longest_is_in_the_next_batch() -> None:
    model = Model()
    async with scheduler_of(model, max_batch_tokens=20) as scheduler:
        holding = await model.hold(scheduler)
        first = asyncio.create_task(scheduler.embed([text(1, length=20)]))
        await settle()
        later = asyncio.create_task(scheduler.embed([text(2, length=5)] * 8))
        await settle()
        model.may_run.set()
        await asyncio.gather(holding, first, later)
    assert model.batches == [[1], [20], [5] * 4, [5] * 4]


async def test_what_does_not_fit_is_refused_as_a_whole() -> None:
    model = Model()
    async with scheduler_of(model, max_queued_tokens=100) as scheduler:
        holding = await model.hold(scheduler)
        with pytest.raises(Overloaded, match="1 tokens are queued, and with 100 more"):
            await scheduler.embed([text(1, length=50), text(2, length=50)])
        waiting = asyncio.create_task(scheduler.embed([text(3, length=99)]))
        await settle()
        with pytest.raises(Overloaded) as refusal:
            scheduler.check_room()
        assert refusal.value.retry_after > 0
        model.may_run.set()
        await asyncio.gather(holding, waiting)
        scheduler.check_room(100)
    assert model.batches == [[1], [99]]


async def test_the_time_to_wait_comes_from_the_measured_rate() -> None:
    model = Model()
    async with scheduler_of(model, max_queued_tokens=1_000) as scheduler:
        for _ in range(50):
            await scheduler.embed([text(1, length=200)])
        holding = await model.hold(scheduler)
        waiting = asyncio.create_task(scheduler.embed([text(1, length=999)]))
        await settle()
        with pytest.raises(Overloaded) as one:
            scheduler.check_room(1)
        with pytest.raises(Overloaded) as hundred:
            scheduler.check_room(100)
        model.may_run.set()
        await asyncio.gather(holding, waiting)
    assert hundred.value.retry_after == pytest.approx(100 * one.value.retry_after)


async def test_what_could_never_fit_is_refused_as_too_large() -> None:
    async with scheduler_of(Model(), max_queued_tokens=100) as scheduler:
        with pytest.raises(BatchTooLarge, match="more than 100 tokens together"):
            await scheduler.embed([text(1, length=101)])


async def test_a_failed_batch_fails_only_the_requests_whose_texts_fail() -> None:
    model = Model()
    async with scheduler_of(model) as scheduler:
        holding = await model.hold(scheduler)
        requests = [
            asyncio.create_task(scheduler.embed([text(i, length=8), text(9, length=8)]))
            for i in (1, 2, -1, 3, 4)
        ]
        await settle()
        model.may_run.set()
        await holding
        results = await asyncio.gather(*requests, return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        assert results.index(failed[0]) == 2
        assert isinstance(failed[0], InferenceError)
        assert len(failed) == 1
        assert str(failed[0]) == "the model failed on text 0"
        scheduler.check_room(1_000)


async def test_the_worker_survives_whatever_the_model_does() -> None:
    def misshapen(tokens: Sequence[TokenIds]) -> Embeddings:
        return np.zeros((len(tokens), 2, 2), np.float32)

    async with open_scheduler(misshapen, max_batch_tokens=8, max_queued_tokens=8) as scheduler:
        for _ in range(2):
            with pytest.raises(InferenceError):
                await scheduler.embed([text(1, length=1), text(1, length=1)])


async def test_texts_of_a_cancelled_request_are_not_computed() -> None:
    model = Model()
    async with scheduler_of(model, max_queued_tokens=100) as scheduler:
        holding = await model.hold(scheduler)
        cancelled = asyncio.create_task(scheduler.embed([text(1, length=33)] * 3))
        await settle()
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        kept = asyncio.create_task(scheduler.embed([text(2, length=99)]))
        await settle()
        model.may_run.set()
        await asyncio.gather(holding, kept)
    assert model.batches == [[1], [99]]


async def test_a_request_cancelled_while_it_is_computed_leaves_the_others_alone() -> None:
    model = Model()
    async with scheduler_of(model, max_queued_tokens=100) as scheduler:
        computed = await model.hold(scheduler)
        computed.cancel()
        kept = asyncio.create_task(scheduler.embed([text(2, length=99)]))
        await settle()
        model.may_run.set()
        assert (await kept).embeddings.tolist() == [[2, 99]]
        scheduler.check_room(100)


async def test_closing_finishes_what_was_accepted_and_takes_nothing_more() -> None:
    model = Model()
    async with scheduler_of(model) as scheduler:
        holding = await model.hold(scheduler)
        accepted = asyncio.create_task(scheduler.embed([text(5, length=3)]))
        await settle()
        scheduler.close()
        with pytest.raises(Overloaded, match="shutting down"):
            await scheduler.embed([text(6, length=3)])
        model.may_run.set()
    assert holding.done()
    assert (await accepted).embeddings.tolist() == [[5, 3]]


async def test_the_last_success_is_known_until_a_batch_fails() -> None:
    async with scheduler_of(Model()) as scheduler:
        assert scheduler.seconds_since_success() == float("inf")
        await scheduler.embed([text(1, length=3)])
        assert scheduler.seconds_since_success() < 60
        with pytest.raises(InferenceError):
            await scheduler.embed([text(-1, length=3)])
        assert scheduler.seconds_since_success() == float("inf")


LENGTHS = st.lists(st.integers(1, 80), min_size=1, max_size=20)


@settings(deadline=None, max_examples=50)
@given(requests=st.lists(LENGTHS, min_size=1, max_size=10))
def test_every_text_is_answered_once_in_batches_that_are_mostly_text(
    requests: list[list[int]],
) -> None:
    model = Model()

    async def scenario() -> None:
        async with scheduler_of(model, max_queued_tokens=10**6) as scheduler:
            results = await asyncio.gather(
                *(
                    scheduler.embed([text(i, length=n) for i, n in enumerate(lengths)])
                    for lengths in requests
                )
            )
            for lengths, result in zip(requests, results, strict=True):
                assert result.embeddings.tolist() == [[i, n] for i, n in enumerate(lengths)]

    asyncio.run(scenario())
    assert sorted(chain(*model.batches)) == sorted(chain(*requests))
    for batch in model.batches:
        padded = len(batch) * max(batch)
        assert padded <= 256
        assert padded - sum(batch) <= max(padded / 8, 256 / 64)
