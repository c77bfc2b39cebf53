"""A model that tests stop and watch, and requests to a scheduler that runs it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import numpy as np

from service.embedding.batching import Cores, Cost, Plan, Priority
from service.embedding.onnx_model import Embeddings
from service.embedding.scheduler import Scheduler, open_scheduler
from service.embedding.tokenization import TokenIds

Begun = asyncio.Task[list[list[float]]]  # a request, which gives its embeddings

COST = Cost(batch=4, token=1)


class Model:
    """Gives each text its first id and its length as embedding.

    It fails on ids of -1, and ids of -2 end the worker.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []  # of lengths, in the order of their end
        self.cores: list[Cores] = []
        self.texts: list[int] = []  # their first ids
        self.may_run = threading.Event()
        self.may_run.set()
        self.started = threading.Semaphore(0)

    def __call__(self, tokens: Sequence[TokenIds], cores: Cores) -> Embeddings:
        self.started.release()
        assert self.may_run.wait(10)
        firsts = [int(ids[0]) for ids in tokens]
        self.batches.append([len(ids) for ids in tokens])
        self.cores.append(cores)
        self.texts += firsts
        if -2 in firsts:
            raise SystemExit("an id of -2")
        if -1 in firsts:
            raise ValueError("an id of -1")
        return np.array([(ids[0], len(ids)) for ids in tokens], np.float32)

    async def hold(self, scheduler: Scheduler, *, workers: int = 1) -> "list[Begun]":
        """Keep workers busy with a text of one token each until `may_run` is set."""
        self.may_run.clear()
        holding = []
        for number in range(workers):
            holding.append(begin(scheduler, [text(1_000 + number, length=1)], "interactive"))
            await self.until_started()
        return holding

    async def until_started(self) -> None:
        """Wait for the next batch that is begun."""
        assert await asyncio.to_thread(self.started.acquire, timeout=10)


def text(first: int, *, length: int) -> TokenIds:
    return np.array([first] + [7] * (length - 1))


def texts(count: int, *, length: int, first: int = 1) -> list[TokenIds]:
    """Texts of one length that are all different."""
    return [text(first + number, length=length) for number in range(count)]


def scheduler_of(
    model: Model, *, workers: int = 1, max_batch_tokens: int = 256, max_queued_tokens: int = 1_000
) -> AbstractAsyncContextManager[Scheduler]:
    plan = Plan(workers, max_batch_tokens, one_core=COST, all_cores=COST)
    return open_scheduler(model, plan, max_queued_tokens=max_queued_tokens)


def begin(scheduler: Scheduler, texts: Sequence[TokenIds], priority: Priority = "bulk") -> Begun:
    async def embed() -> list[list[float]]:
        embeddings: list[list[float]] = (await scheduler.embed(texts, priority)).embeddings.tolist()
        return embeddings

    return asyncio.create_task(embed())


async def settle() -> None:
    """Let tasks that were just created run until they wait."""
    for _ in range(3):
        await asyncio.sleep(0)


async def cancel(task: Begun) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def held(
    model: Model, *, max_batch_tokens: int = 256, max_queued_tokens: int = 1_000
) -> AsyncIterator[tuple[Scheduler, list[Begun]]]:
    """A scheduler whose only worker waits, and requests that leaving it lets run and awaits."""
    limits = {"max_batch_tokens": max_batch_tokens, "max_queued_tokens": max_queued_tokens}
    async with scheduler_of(model, **limits) as scheduler:
        requests = await model.hold(scheduler)
        yield scheduler, requests
        await settle()
        model.may_run.set()
        await asyncio.gather(*requests)
    del model.batches[0], model.cores[0], model.texts[0]
