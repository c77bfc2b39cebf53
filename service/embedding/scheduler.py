"""Runs the texts of all requests through one model, on several workers, in batches that share them.

batching.py says which texts are computed next, on how many cores. Here are the bound on what may
wait, the threads that compute, and the answers.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np

from service.embedding.batching import Batch, Cores, Plan, Priority, TextQueue
from service.embedding.drain_rate import DrainRate
from service.embedding.onnx_model import Embeddings
from service.embedding.tokenization import TokenIds
from service.errors import BatchTooLarge, InferenceError, Overloaded

logger = logging.getLogger(__name__)

RunBatch = Callable[[Sequence[TokenIds], Cores], Embeddings]

# What a refused client is told in seconds when no rate was measured.
UNKNOWN_RETRY_AFTER = 1.0

# How long the place of a worker stays empty that died twice or more without having computed
# anything, in seconds: doubled each time, so that what kills them all does not take the processor.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class ScheduledEmbeddings:
    """The embeddings of one request, and how long it waited and was computed."""

    embeddings: Embeddings  # (texts, dimensions), in the order of the request
    queue_seconds: float
    inference_seconds: float


_Answer = asyncio.Future[ScheduledEmbeddings]
_Answered = list[tuple[_Answer, ScheduledEmbeddings | InferenceError]]


class Scheduler:
    """A bounded queue of texts and the workers that run the model; made by open_scheduler.

    A text that several requests want at a time is computed once, and counts once.
    """

    def __init__(self, run: RunBatch, plan: Plan, *, max_queued_tokens: int) -> None:
        self._run = run
        self._plan = plan
        self._max_queued_tokens = max_queued_tokens
        self._loop = asyncio.get_running_loop()
        self._closed = threading.Event()
        # The rest is read and written under this condition, which says that something is waiting.
        self._changed = threading.Condition()
        self._queue: TextQueue[_Text] = TextQueue(plan)
        self._in_flight: dict[bytes, _Text] = {}  # by its ids: waiting or running
        self._queued_tokens = 0  # in flight
        self._workers_alive = plan.workers
        self._rate = DrainRate()
        self._succeeded_at = -float("inf")

    async def embed(self, texts: Sequence[TokenIds], priority: Priority) -> ScheduledEmbeddings:
        """The embeddings of a request's texts, at least one; a cancelled call withdraws them.

        Raises:
            BatchTooLarge: the texts would not fit into an empty queue.
            Overloaded: they do not fit now, and none of them was accepted.
            InferenceError: the model failed on one of them, alone, or its worker died.
        """
        request = self._accept(texts, priority)
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
        self._check_size(tokens)
        with self._changed:
            self._check_room(tokens)

    def seconds_since_success(self) -> float:
        """How long ago a batch was computed; infinite where none was, or one failed since."""
        with self._changed:
            return time.perf_counter() - self._succeeded_at

    @property
    def workers_alive(self) -> int:
        """How many workers there are; fewer than planned while some die again and again."""
        return self._workers_alive

    @property
    def queued_tokens(self) -> int:
        """How many tokens are waiting or running."""
        return self._queued_tokens

    def work(self) -> None:
        """Be a worker, and after its death the next one, until all that was accepted is done."""
        pause = 0.0
        while True:
            life = _Life()
            try:
                self._live(life)
                break
            except BaseException as error:  # noqa: BLE001 - the next worker must not die of it
                self._bury(life, error)
            if life.computed:
                pause = 0.0
            self._closed.wait(pause)
            pause = min(max(FIRST_PAUSE, 2 * pause), LONGEST_PAUSE)
            with self._changed:
                self._workers_alive += 1
        with self._changed:
            self._workers_alive -= 1

    def close(self) -> None:
        """Accept nothing more."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()

    def _accept(self, texts: Sequence[TokenIds], priority: Priority) -> "_Request":
        positions: dict[bytes, list[int]] = {}
        for position, ids in enumerate(texts):
            positions.setdefault(ids.tobytes(), []).append(position)
        distinct = {key: texts[at[0]] for key, at in positions.items()}
        self._check_size(_tokens(distinct.values()))
        request = _Request(self._loop.create_future(), len(texts), time.perf_counter())
        with self._changed:
            new = [ids for key, ids in distinct.items() if key not in self._in_flight]
            self._check_room(_tokens(new))
            self._queued_tokens += _tokens(new)
            for key, ids in distinct.items():
                text = self._in_flight.get(key)
                if text is None:
                    text = self._in_flight[key] = _Text(key, ids)
                    self._queue.put(text, len(ids), priority)
                elif text.running:
                    request.started_at = request.arrived_at
                elif priority == "interactive":
                    self._queue.promote(text)
                text.receivers[request] = positions[key]
                request.texts.append(text)
            self._changed.notify(len(new))
        return request

    def _check_size(self, tokens: int) -> None:
        if tokens > self._max_queued_tokens:
            raise BatchTooLarge(
                f"the texts have more than {self._max_queued_tokens:,} tokens together, which is "
                "what the service takes at once; send them in several requests",
                parameter="input",
            )

    def _check_room(self, tokens: int) -> None:
        if self._closed.is_set():
            raise Overloaded("the service is shutting down", retry_after=UNKNOWN_RETRY_AFTER)
        excess = self._queued_tokens + tokens - self._max_queued_tokens
        if excess > 0:
            retry_after = self._rate.seconds_for(excess) or UNKNOWN_RETRY_AFTER
            raise Overloaded(
                f"{self._queued_tokens:,} tokens are queued, and with {tokens:,} more they "
                f"would exceed {self._max_queued_tokens:,}; "
                f"there should be room in {retry_after:.1f} s",
                retry_after=retry_after,
            )

    def _withdraw(self, request: "_Request") -> None:
        for text in request.texts:
            if text.receivers.pop(request, None) and not (text.receivers or text.running):
                self._queue.drop(text)
                self._leave(text)
        request.texts.clear()

    def _leave(self, text: "_Text") -> None:
        del self._in_flight[text.key]
        self._queued_tokens -= len(text.ids)

    def _live(self, life: "_Life") -> None:
        while batch := self._next_batch():
            life.batch = batch
            self._compute(batch.texts, batch.cores, life.answered)
            life.computed = True
            life.batch = None
            # Before the answers are there, so that a client that asks at once finds it idle.
            with self._changed:
                tokens = _tokens(text.ids for text in batch.texts)
                self._rate.end(time.perf_counter(), tokens)
            self._send(life.answered)

    def _next_batch(self) -> "Batch[_Text] | None":
        with self._changed:
            while not (batch := self._take_batch()):
                if self._closed.is_set():
                    return None
                self._changed.wait()
            now = time.perf_counter()
            self._rate.begin(now)
            for text in batch.texts:
                text.running = True
                for request in text.receivers:
                    request.started_at = request.started_at or now
            return batch

    def _take_batch(self) -> "Batch[_Text] | None":
        try:
            return self._queue.take(self._rate.computing)
        except BaseException as error:
            # Which texts the queue still holds is unknown now, and none of them may wait for ever.
            self._queue = TextQueue(self._plan)
            waiting = [text for text in self._in_flight.values() if not text.running]
            for text in waiting:
                text.running = True
            answered: _Answered = []
            self._fail(waiting, _died_of(error), answered)
            self._send(answered)
            raise

    def _compute(self, texts: "Sequence[_Text]", cores: Cores, answered: _Answered) -> None:
        try:
            embeddings = self._run([text.ids for text in texts], cores)
            if embeddings.ndim != 2 or len(embeddings) != len(texts):
                raise InferenceError(f"{len(texts)} texts gave an array of {embeddings.shape}")
        except Exception as error:  # it concerns this batch, and must not end the worker
            if len(texts) == 1:
                tokens = len(texts[0].ids)
                logger.error("inference failed on a text of %d tokens", tokens, exc_info=error)
                self._fail(texts, "the model failed on", answered)
                return
            with self._changed:
                self._succeeded_at = -float("inf")
            logger.warning("a batch of %d texts failed (%s); trying halves", len(texts), error)
        else:
            self._deliver(texts, embeddings, answered)
            return
        for half in (texts[: len(texts) // 2], texts[len(texts) // 2 :]):
            if wanted := self._still_wanted(half):
                self._compute(wanted, cores, answered)

    def _still_wanted(self, texts: "Sequence[_Text]") -> "list[_Text]":
        with self._changed:
            for text in texts:
                if not text.receivers:
                    self._leave(text)
            return [text for text in texts if text.receivers]

    def _deliver(
        self, texts: "Sequence[_Text]", embeddings: Embeddings, answered: _Answered
    ) -> None:
        now = time.perf_counter()
        with self._changed:
            self._succeeded_at = now
            for text, embedding in zip(texts, embeddings, strict=True):  # (dimensions,)
                for request, positions in text.receivers.items():
                    if request.receive(embedding, positions):
                        answered.append((request.answer, request.result(now)))
                self._leave(text)
                text.receivers.clear()

    def _fail(self, texts: "Sequence[_Text]", why: str, answered: _Answered) -> None:
        """Fail all requests that want these running texts, and withdraw their others."""
        with self._changed:
            self._succeeded_at = -float("inf")
            for text in texts:
                self._leave(text)
                for request, positions in list(text.receivers.items()):
                    self._withdraw(request)
                    failure = InferenceError(why, position=positions[0])
                    answered.append((request.answer, failure))

    def _bury(self, life: "_Life", error: BaseException) -> None:
        with self._changed:
            self._workers_alive -= 1
            self._succeeded_at = -float("inf")
            if life.batch:
                self._rate.end(time.perf_counter(), tokens=0)
                texts = life.batch.texts
                unanswered = [text for text in texts if self._in_flight.get(text.key) is text]
                self._fail(unanswered, _died_of(error), life.answered)
        self._send(life.answered)
        logger.critical("a worker died; another takes its place", exc_info=error)

    def _send(self, answered: _Answered) -> None:
        if answered:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                self._loop.call_soon_threadsafe(_answer, answered.copy())
        answered.clear()


@asynccontextmanager
async def open_scheduler(
    run: RunBatch, plan: Plan, *, max_queued_tokens: int
) -> AsyncIterator[Scheduler]:
    """A scheduler with its workers; leaving it finishes what was accepted.

    Workers call `run` at the same time, each from its own thread.
    """
    scheduler = Scheduler(run, plan, max_queued_tokens=max_queued_tokens)
    # Daemons, since a process that ends without leaving the scheduler, as one of Ray's does, would
    # wait for them for ever.
    workers = [
        threading.Thread(target=scheduler.work, name=f"inference-{number}", daemon=True)
        for number in range(plan.workers)
    ]
    try:
        for worker in workers:
            worker.start()
        yield scheduler
    finally:
        scheduler.close()
        for worker in filter(threading.Thread.is_alive, workers):
            await asyncio.to_thread(worker.join)


@dataclass(slots=True, eq=False)
class _Request:
    """What one caller waits for."""

    answer: _Answer
    missing: int  # texts
    arrived_at: float
    started_at: float = 0.0
    embeddings: Embeddings | None = None
    texts: "list[_Text]" = field(default_factory=list)

    def receive(self, embedding: Embeddings, positions: Sequence[int]) -> bool:
        """Copy the embedding to these positions, and say whether it was the last one."""
        if self.embeddings is None:
            self.embeddings = np.empty((self.missing, len(embedding)), np.float32)
        for position in positions:
            self.embeddings[position] = embedding
        self.missing -= len(positions)
        return not self.missing

    def result(self, now: float) -> ScheduledEmbeddings:
        assert self.embeddings is not None
        return ScheduledEmbeddings(
            self.embeddings,
            queue_seconds=self.started_at - self.arrived_at,
            inference_seconds=now - self.started_at,
        )


@dataclass(slots=True, eq=False)
class _Text:
    """One text in flight, and at which positions of which requests it is wanted."""

    key: bytes
    ids: TokenIds  # (tokens,)
    receivers: dict[_Request, Sequence[int]] = field(default_factory=dict)
    running: bool = False


@dataclass(slots=True)
class _Life:
    """What a worker did, and leaves behind when it dies."""

    batch: Batch[_Text] | None = None
    computed: bool = False
    answered: _Answered = field(default_factory=list)
    """Not sent yet."""


def _died_of(error: BaseException) -> str:
    return f"a worker died ({type(error).__name__}) before it had computed"


def _tokens(texts: Iterable[TokenIds]) -> int:
    return sum(map(len, texts))


def _answer(answered: _Answered) -> None:
    for answer, result in answered:
        if answer.done():  # cancelled meanwhile
            continue
        if isinstance(result, InferenceError):
            answer.set_exception(result)
        else:
            answer.set_result(result)
