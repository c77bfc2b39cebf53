import asyncio
import logging
from collections.abc import Sequence

import numpy as np
import pytest

import service.embedding.scheduler as scheduler_module
from service.embedding.batching import Cores, Plan
from service.embedding.onnx_model import Embeddings
from service.embedding.scheduler import open_scheduler
from service.embedding.tokenization import TokenIds
from service.errors import InferenceError
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


async def test_a_failed_batch_fails_only_the_requests_whose_texts_fail() -> None:
    model = Model()
    async with held(model) as (scheduler, _):
        requests = [
            begin(scheduler, [text(i, length=8), text(9 + i, length=8)]) for i in (1, 2, -1, 3, 4)
        ]
        await settle()
        model.may_run.set()
        results = await asyncio.gather(*requests, return_exceptions=True)
        failed = [result for result in results if isinstance(result, BaseException)]
        assert results.index(failed[0]) == 2
        assert isinstance(failed[0], InferenceError)
        assert len(failed) == 1
        assert str(failed[0]) == "the model failed on text 0"
        assert scheduler.queued_tokens == 0


async def test_a_text_that_fails_fails_all_requests_that_want_it_and_withdraws_their_others() -> (
    None
):
    model = Model()
    async with held(model, max_batch_tokens=10) as (scheduler, _):
        first = begin(scheduler, [text(-1, length=9), text(2, length=3)])
        second = begin(scheduler, [text(4, length=3), text(-1, length=9)])
        third = begin(scheduler, [text(4, length=3)])
        await settle()
        model.may_run.set()
        with pytest.raises(InferenceError, match="the model failed on text 0"):
            await first
        with pytest.raises(InferenceError, match="the model failed on text 1"):
            await second
        assert await third == [[4, 3]]
        assert scheduler.queued_tokens == 0
    assert model.texts == [-1, 4]


async def test_the_worker_survives_embeddings_of_a_wrong_shape() -> None:
    def misshapen(tokens: Sequence[TokenIds], cores: Cores) -> Embeddings:
        return np.zeros((len(tokens), 2, 2), np.float32)

    plan = Plan(1, 8, one_core=COST, all_cores=COST)
    async with open_scheduler(misshapen, plan, max_queued_tokens=8) as scheduler:
        for _ in range(2):
            with pytest.raises(InferenceError):
                await scheduler.embed(texts(2, length=1), "bulk")
        assert scheduler.workers_alive == 1


async def test_a_failed_batch_is_not_retried_for_those_who_went_away() -> None:
    model = Model()
    async with scheduler_of(model) as scheduler:
        model.may_run.clear()
        gone = begin(scheduler, [text(-1, length=3), text(2, length=3)])
        await model.until_started()
        stays = begin(scheduler, [text(2, length=3)])
        await settle()
        await cancel(gone)
        model.may_run.set()
        assert await stays == [[2, 3]]
        assert scheduler.queued_tokens == 0
    assert model.texts == [-1, 2, 2]


async def test_the_last_success_is_known_until_a_batch_fails() -> None:
    async with scheduler_of(Model()) as scheduler:
        assert scheduler.seconds_since_success() == float("inf")
        await scheduler.embed([text(1, length=3)], "bulk")
        assert scheduler.seconds_since_success() < 60
        with pytest.raises(InferenceError):
            await scheduler.embed([text(-1, length=3)], "bulk")
        assert scheduler.seconds_since_success() == float("inf")


async def test_a_worker_that_dies_fails_the_requests_of_its_batch_and_is_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Model()
    async with held(model, max_batch_tokens=10) as (scheduler, _):
        dying = begin(scheduler, [text(-2, length=9), text(3, length=3)])
        other = begin(scheduler, [text(4, length=3)])
        await settle()
        model.may_run.set()
        with pytest.raises(InferenceError, match=r"died \(SystemExit\) before .* computed text 0"):
            await dying
        assert await other == [[4, 3]]
        assert scheduler.workers_alive == 1
        assert scheduler.queued_tokens == 0
    assert model.texts == [-2, 4]
    (record,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert record.exc_info


async def test_the_death_of_a_worker_ends_the_success() -> None:
    async with scheduler_of(Model()) as scheduler:
        await scheduler.embed([text(1, length=3)], "bulk")
        with pytest.raises(InferenceError):
            await scheduler.embed([text(-2, length=3)], "bulk")
        assert scheduler.seconds_since_success() == float("inf")


async def test_the_place_of_a_worker_that_dies_again_stays_empty_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler_module, "FIRST_PAUSE", 600.0)
    monkeypatch.setattr(scheduler_module, "LONGEST_PAUSE", 600.0)
    async with scheduler_of(Model()) as scheduler:
        for _ in range(2):
            with pytest.raises(InferenceError):
                await scheduler.embed([text(-2, length=3)], "bulk")
        assert scheduler.workers_alive == 0
        accepted = begin(scheduler, [text(1, length=3)])
        await settle()
    assert await accepted == [[1, 3]]


async def test_a_worker_that_has_computed_something_is_replaced_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduler_module, "FIRST_PAUSE", 600.0)
    monkeypatch.setattr(scheduler_module, "LONGEST_PAUSE", 600.0)
    async with scheduler_of(Model()) as scheduler:
        for _ in range(3):
            with pytest.raises(InferenceError):
                await scheduler.embed([text(-2, length=3)], "bulk")
            assert await begin(scheduler, [text(1, length=3)]) == [[1, 3]]
        assert scheduler.workers_alive == 1


async def test_no_request_waits_for_ever_when_batches_cannot_be_formed() -> None:
    class Explosive(int):
        def __lt__(self, other: int) -> bool:
            if other == 13:
                raise RuntimeError("thirteen")
            return super().__lt__(other)

    model = Model()
    plan = Plan(1, 64, one_core=COST, all_cores=COST, borders=(Explosive(64),))
    async with open_scheduler(model, plan, max_queued_tokens=1_000) as scheduler:
        holding = await model.hold(scheduler)
        requests = [
            begin(scheduler, [text(1, length=13)]),
            begin(scheduler, texts(2, length=10, first=8)),
        ]
        await settle()
        model.may_run.set()
        await asyncio.gather(*holding)
        for request in requests:
            with pytest.raises(InferenceError, match="RuntimeError"):
                await request
        assert scheduler.queued_tokens == 0
        assert await begin(scheduler, [text(1, length=12)]) == [[1, 12]]
