"""Runs the texts of all requests through one model, in batches of texts of similar length.

Every batch holds the text that has waited longest, so that none waits for ever, and is filled with
those nearest to it in length, so that little of the batch is padding.
"""

import asyncio
import itertools
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from service.embedding.onnx_model import Embeddings
from service.embedding.tokenization import TokenIds
from service.errors import BatchTooLarge, InferenceError, Overloaded

logger = logging.getLogger(__name__)

RunBatch = Callable[[Sequence[TokenIds]], Embeddings]

# Starting a batch costs about as much as this share of a full one: 6 ms, or 30 of 2,048 tokens, on
# two CPU cores. So up to here padding is cheaper than a batch of its own.
FREE_PADDING = 1 / 64

# Beyond that, padding may be this share of a batch: what texts have that differ by a quarter. With
# texts of 4 to 256 tokens from eight clients it takes 3.1 s where one without a limit takes 7.1.
MAX_PADDING = 1 / 8

# How much the measured rate keeps of the past at each batch: it shows about the last ten.
RATE_MEMORY = 0.9


@dataclass(frozen=True, slots=True)
class ScheduledEmbeddings:
    """The embeddings of one request, and how long it waited and was computed."""

    embeddings: Embeddings  # (texts, dimensions), in the order of the request
    queue_seconds: float
    inference_seconds: float


_Answer = asyncio.Future[ScheduledEmbeddings]


class Scheduler:
    """A bounded queue of texts and the one thread that runs the model; made by open_scheduler."""

    def __init__(self, run: RunBatch, *, max_batch_tokens: int, max_queued_tokens: int) -> None:
        self._run = run
        self._max_batch_tokens = max_batch_tokens
        self._max_queued_tokens = max_queued_tokens
        self._loop = asyncio.get_running_loop()
        self._arrivals = itertools.count()
        # The rest is read and written under this condition, which says that something is waiting.
        self._changed = threading.Condition()
        self._waiting: defaultdict[int, deque[_Text]] = defaultdict(deque)  # by number of tokens
        self._queued_tokens = 0  # waiting or running
        self._recent_tokens = 0.0
        self._recent_seconds = 0.0
        self._succeeded_at = -float("inf")
        self._closing = False

    async def embed(self, texts: Sequence[TokenIds]) -> ScheduledEmbeddings:
        """The embeddings of a request's texts; a cancelled call takes its texts out of the queue.

        Raises:
            BatchTooLarge: the texts would not fit into an empty queue.
            Overloaded: they do not fit now, and none of them was accepted.
            InferenceError: the model failed on one of them, alone.
        """
        request = self._accept(texts)
        try:
            return await request.answer
        except asyncio.CancelledError:
            with self._changed:
                self._withdraw(request)
            raise

    def check_room(self, tokens: int = 1) -> None:
        """Return if this many tokens fit into the queue.

        Raises:
            BatchTooLarge: they would not fit into an empty queue.
            Overloaded: they do not fit now.
        """
        if tokens > self._max_queued_tokens:
            raise BatchTooLarge(
                f"the texts have more than {self._max_queued_tokens:,} tokens together, which is "
                "what the service takes at once; send them in several requests",
                parameter="input",
            )
        with self._changed:
            if self._closing:
                raise Overloaded("the service is shutting down", retry_after=1.0)
            excess = self._queued_tokens + tokens - self._max_queued_tokens
            if excess > 0:
                known = self._recent_seconds > 0
                retry_after = excess * self._recent_seconds / self._recent_tokens if known else 1.0
                raise Overloaded(
                    f"{self._queued_tokens:,} tokens are queued, and with {tokens:,} more they "
                    f"would exceed {self._max_queued_tokens:,}; "
                    f"there should be room in {retry_after:.1f} s",
                    retry_after=retry_after,
                )

    def seconds_since_success(self) -> float:
        """How long ago a batch was computed; infinite where none was, or one failed since."""
        with self._changed:
            return time.perf_counter() - self._succeeded_at

    def work(self) -> None:
        """Compute what is accepted until the scheduler is closed and its queue is empty."""
        while batch := self._next_batch():
            started = time.perf_counter()
            self._compute(batch)
            seconds = time.perf_counter() - started
            with self._changed:
                self._recent_tokens = RATE_MEMORY * self._recent_tokens + _tokens(batch)
                self._recent_seconds = RATE_MEMORY * self._recent_seconds + seconds

    def close(self) -> None:
        """Accept nothing more."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _accept(self, texts: Sequence[TokenIds]) -> "_Request":
        tokens = sum(map(len, texts))
        request = _Request(self._loop.create_future(), texts=len(texts), tokens=tokens)
        with self._changed:
            self.check_room(tokens)
            for position, ids in enumerate(texts):
                text = _Text(next(self._arrivals), request, position, ids)
                self._waiting[len(ids)].append(text)
            self._queued_tokens += tokens
            self._changed.notify()
        return request

    def _withdraw(self, request: "_Request") -> None:
        # Its texts stay where they are until the worker comes across them, but count no more.
        request.withdrawn = True
        self._queued_tokens -= request.waiting_tokens
        request.waiting_tokens = 0

    def _next_batch(self) -> "list[_Text]":
        with self._changed:
            while True:
                if batch := self._take_batch():
                    return batch
                if self._closing:
                    return []
                self._changed.wait()

    def _take_batch(self) -> "list[_Text]":
        for length, texts in list(self._waiting.items()):
            while texts and texts[0].request.withdrawn:
                texts.popleft()
            if not texts:
                del self._waiting[length]
        if not self._waiting:
            return []
        oldest = min(self._waiting, key=lambda length: self._waiting[length][0].arrival)
        batch: list[_Text] = []
        longest = tokens = 0
        for length in sorted(self._waiting, key=lambda length: abs(length - oldest)):
            texts = self._waiting[length]
            while texts and self._fits(len(batch) + 1, max(longest, length), tokens + length):
                text = texts.popleft()
                if not text.request.withdrawn:
                    batch.append(text)
                    longest = max(longest, length)
                    tokens += length
        now = time.perf_counter()
        for text in batch:
            text.request.waiting_tokens -= len(text.ids)
            text.request.started_at = text.request.started_at or now
        return batch

    def _fits(self, texts: int, longest: int, tokens: int) -> bool:
        padded = texts * longest
        padding = padded - tokens
        allowed = max(MAX_PADDING * padded, FREE_PADDING * self._max_batch_tokens)
        return texts == 1 or (padded <= self._max_batch_tokens and padding <= allowed)

    def _compute(self, batch: "Sequence[_Text]") -> None:
        try:
            embeddings = self._run([text.ids for text in batch])
            self._deliver(batch, embeddings)
        except Exception as error:  # noqa: BLE001 - it concerns this batch, and must not end the thread
            with self._changed:
                self._succeeded_at = -float("inf")
            if len(batch) == 1:
                self._fail(batch[0], error)
                return
            logger.warning("a batch of %d texts failed (%s); trying halves", len(batch), error)
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                if wanted := self._still_wanted(half):
                    self._compute(wanted)

    def _still_wanted(self, batch: "Sequence[_Text]") -> "list[_Text]":
        with self._changed:
            wanted = [text for text in batch if not text.request.withdrawn]
            self._queued_tokens -= _tokens(batch) - _tokens(wanted)
        return wanted

    def _deliver(self, batch: "Sequence[_Text]", embeddings: Embeddings) -> None:
        if embeddings.ndim != 2 or len(embeddings) != len(batch):
            raise InferenceError(f"{len(batch)} texts gave an array of shape {embeddings.shape}")
        now = time.perf_counter()
        finished: list[tuple[_Answer, ScheduledEmbeddings]] = []
        with self._changed:
            for text, embedding in zip(batch, embeddings, strict=True):  # (dimensions,)
                request = text.request
                if request.embeddings is None:
                    shape = (request.missing, embeddings.shape[1])
                    request.embeddings = np.empty(shape, np.float32)
                request.embeddings[text.position] = embedding
                request.missing -= 1
                if not request.missing:
                    result = ScheduledEmbeddings(
                        request.embeddings,
                        queue_seconds=request.started_at - request.arrived_at,
                        inference_seconds=now - request.started_at,
                    )
                    finished.append((request.answer, result))
            self._succeeded_at = now
            self._queued_tokens -= _tokens(batch)
        if finished:
            self._loop.call_soon_threadsafe(_answer, finished)

    def _fail(self, text: "_Text", error: Exception) -> None:
        logger.error("inference failed on a text of %d tokens", len(text.ids), exc_info=error)
        with self._changed:
            self._withdraw(text.request)
            self._queued_tokens -= len(text.ids)
        failure = InferenceError(f"the model failed on text {text.position}")
        self._loop.call_soon_threadsafe(_answer, [(text.request.answer, failure)])


@asynccontextmanager
async def open_scheduler(
    run: RunBatch, *, max_batch_tokens: int, max_queued_tokens: int
) -> AsyncIterator[Scheduler]:
    """A scheduler with its thread; leaving it finishes what was accepted."""
    scheduler = Scheduler(
        run, max_batch_tokens=max_batch_tokens, max_queued_tokens=max_queued_tokens
    )
    thread = threading.Thread(target=scheduler.work, name="inference")
    thread.start()
    try:
        yield scheduler
    finally:
        scheduler.close()
        await asyncio.to_thread(thread.join)


class _Request:
    """What one caller waits for."""

    __slots__ = (
        "answer",
        "arrived_at",
        "embeddings",
        "missing",
        "started_at",
        "waiting_tokens",
        "withdrawn",
    )

    def __init__(self, answer: _Answer, *, texts: int, tokens: int) -> None:
        self.answer = answer
        self.arrived_at = time.perf_counter()
        self.started_at = 0.0
        self.embeddings: Embeddings | None = None
        self.missing = texts
        self.waiting_tokens = tokens
        self.withdrawn = False


class _Text(NamedTuple):
    arrival: int
    request: _Request
    position: int  # in the request
    ids: TokenIds  # (tokens,)


def _tokens(texts: Sequence[_Text]) -> int:
    return sum(len(text.ids) for text in texts)


def _answer(finished: "Sequence[tuple[_Answer, ScheduledEmbeddings | InferenceError]]") -> None:
    for answer, result in finished:
        if answer.done():  # cancelled meanwhile
            continue
        if isinstance(result, InferenceError):
            answer.set_exception(result)
        else:
            answer.set_result(result)
