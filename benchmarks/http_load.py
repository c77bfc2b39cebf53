"""Loads an embedding server through sockets, and costs little of a processor itself.

Answers are read whole as they come, and looked into when the load is over: what a client of Python
would do with them must not take the processor from a server on the same machine.
"""

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec
import numpy as np

SECONDS_TO_ANSWER = 600
_PAUSE_AFTER_AN_ERROR = 1.0
_TICK = 0.1


@dataclass(frozen=True, slots=True)
class Request:
    """The body of a request for embeddings, and what it asks for."""

    body: bytes
    texts: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request; times in seconds on one clock. Status 0: there was no answer."""

    request: Request
    due: float  # when it was to be sent
    answered: float
    status: int
    body: bytes


@dataclass(slots=True)
class Turn:
    """What was sent from `started` on, and the processor time that sending it took."""

    started: float = field(default_factory=time.perf_counter)
    client_started: float = field(default_factory=time.process_time)
    outcomes: list[Outcome] = field(default_factory=list)
    client_share: float = 0.0  # of one processor
    longest_pause: float = 0.0  # of this process, and so of whatever stood still with it

    def end(self) -> None:
        seconds = time.perf_counter() - self.started
        self.client_share = (time.process_time() - self.client_started) / seconds

    async def watch(self) -> None:
        """Find out how long the event loop did not run, until cancelled."""
        while True:
            asked = time.perf_counter()
            await asyncio.sleep(_TICK)
            self.longest_pause = max(self.longest_pause, time.perf_counter() - asked - _TICK)


class _Item(msgspec.Struct):
    embedding: str | list[float]


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class Answer(msgspec.Struct):
    """The part of an answer that a benchmark looks at."""

    data: list[_Item]
    usage: _Usage = msgspec.field(default_factory=_Usage)

    def sizes(self) -> list[int]:
        """How many numbers each embedding has."""
        return [
            len(item.embedding) * 3 // 4 // 4
            if isinstance(item.embedding, str)
            else len(item.embedding)
            for item in self.data
        ]


class Connection(asyncio.Protocol):
    """A connection that is kept open between requests, for one of them at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._answer: asyncio.Future[tuple[float, int, bytes]] | None = None
        self._transport: asyncio.Transport
        self._lost = asyncio.Event()
        self.usable = True

    async def send(self, request: Request, due: float | None) -> Outcome:
        """What becomes of a request that was due at a moment of the past, or is now."""
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._answer = asyncio.get_running_loop().create_future()
        message = self._head + b"%d\r\n\r\n" % len(request.body) + request.body
        # Taken here, and where the answer arrives, since what a client does besides is no part of
        # what a server does.
        due = time.perf_counter() if due is None else due
        self._transport.write(message)
        try:
            async with asyncio.timeout(SECONDS_TO_ANSWER):
                answered, status, body = await self._answer
        except (OSError, TimeoutError):
            self.usable = False
            answered, status, body = time.perf_counter(), 0, b""
        return Outcome(request, due, answered, status, body)

    async def close(self) -> None:
        self._transport.close()
        await self._lost.wait()

    def data_received(self, data: bytes) -> None:
        self._arrived = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.usable = self._parser.should_keep_alive()
        if self._answer and not self._answer.done():
            self._answer.set_result(
                (self._arrived, self._parser.get_status_code(), bytes(self._body))
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("closed"))
        self._lost.set()

    def _fail(self, error: Exception) -> None:
        self.usable = False
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError(str(error)))


class Connections:
    """Connections to one URL, opened as they are needed and used again when they are free."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._free: deque[Connection] = deque()

    async def send(self, request: Request, due: float | None = None) -> Outcome:
        """What becomes of a request that was due at a moment of the past, since when the time to
        connect counts, or that is due as soon as it is connected."""
        asked = time.perf_counter()
        try:
            while self._free and not self._free[-1].usable:  # left, as those idle for long are
                self._free.pop()
            connection = self._free.pop() if self._free else await self._open()
        except OSError:
            return Outcome(request, due or asked, time.perf_counter(), 0, b"")
        outcome = await connection.send(request, due)
        if connection.usable:
            self._free.append(connection)
        else:
            await connection.close()
        return outcome

    async def close(self) -> None:
        while self._free:
            await self._free.pop().close()

    async def _open(self) -> Connection:
        parts = urlsplit(self._url)
        connection = Connection(self._url)
        # uvloop may go on here before it tells the protocol which transport it has.
        connection._transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: connection, parts.hostname or "", parts.port or 80
        )
        return connection


@asynccontextmanager
async def _turn(url: str) -> AsyncIterator[tuple[Turn, Connections]]:
    connections = Connections(url)
    turn = Turn()
    watching = asyncio.create_task(turn.watch())
    try:
        yield turn, connections
        turn.end()
    finally:
        watching.cancel()
        await connections.close()


async def closed_loop(
    url: str, requests: Iterator[Request], *, clients: int, seconds: float
) -> Turn:
    """So many clients that each send a request when they have the answer to the one before.

    The turn ends when everything that was sent within this time is answered.
    """
    async with _turn(url) as (turn, connections), asyncio.TaskGroup() as tasks:

        async def client() -> None:
            while time.perf_counter() < turn.started + seconds:
                outcome = await connections.send(next(requests))
                turn.outcomes.append(outcome)
                if outcome.status != 200:
                    await asyncio.sleep(_PAUSE_AFTER_AN_ERROR)

        for _ in range(clients):
            tasks.create_task(client())
    return turn


async def open_loop(url: str, requests: Iterator[Request], arrivals: Iterable[float]) -> Turn:
    """Requests that are sent when they arrive, however many are still to be answered.

    Arrivals are seconds from now. A request is late from its arrival on, also where this process
    or a connection to the server was not ready for it.
    """
    async with _turn(url) as (turn, connections), asyncio.TaskGroup() as tasks:

        async def send(request: Request, due: float) -> None:
            turn.outcomes.append(await connections.send(request, due))

        for arrival in arrivals:
            due = turn.started + arrival
            await asyncio.sleep(due - time.perf_counter())
            tasks.create_task(send(next(requests), due))
    return turn


def poisson_arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Moments of arrivals that do not know of each other, at so many a second, in order."""
    random = np.random.default_rng(seed)
    moment = random.exponential(1 / rate)
    while moment < seconds:
        yield float(moment)
        moment += random.exponential(1 / rate)


def error_of(outcome: Outcome) -> str | None:
    """What was wrong with an answer, if anything: its status, or not one embedding a text."""
    if outcome.status == 0:
        return "no answer"
    if outcome.status != 200:
        return f"status {outcome.status}"
    try:
        sizes = msgspec.json.decode(outcome.body, type=Answer).sizes()
    except msgspec.DecodeError:
        return "not an answer"
    if len(sizes) != outcome.request.texts or len(set(sizes)) != 1 or not sizes[0]:
        return "wrong embeddings"
    return None


def summarise(turns: Sequence[Turn]) -> dict[str, Any]:
    """Figures of the turns of one server at one load.

    Throughput is the median of the turns', each up to its last answer; percentiles are over all
    answers, in milliseconds from when a request was due. Errors count in neither. A long pause of
    the client tells that the machine stood still.
    """
    errors: Counter[str] = Counter()
    milliseconds: list[list[float]] = []
    texts_per_second, tokens_per_second = [], []
    for turn in turns:
        wrong = [error_of(outcome) for outcome in turn.outcomes]
        errors.update(error for error in wrong if error)
        good = [outcome for outcome, error in zip(turn.outcomes, wrong, strict=True) if not error]
        milliseconds.append([(outcome.answered - outcome.due) * 1000 for outcome in good])
        seconds = max((outcome.answered for outcome in good), default=np.inf) - turn.started
        texts_per_second.append(sum(outcome.request.texts for outcome in good) / seconds)
        tokens_per_second.append(sum(outcome.request.tokens for outcome in good) / seconds)
    figures = describe(milliseconds, texts_per_second, tokens_per_second)
    return figures | {
        "errors": dict(errors),
        "client_cpu_percent": round(100 * max(turn.client_share for turn in turns), 1),
        "longest_pause_ms": round(1000 * max(turn.longest_pause for turn in turns)),
    }


def describe(
    milliseconds: Sequence[Sequence[float]],
    texts_per_second: Sequence[float],
    tokens_per_second: Sequence[float],
) -> dict[str, Any]:
    """Median throughput, and percentiles of what each answer took; zeros where there was none.

    All are given turn by turn, and `turns` has the two that are compared turn by turn.
    """
    together = list(itertools.chain.from_iterable(milliseconds))
    names = ("p50_ms", "p95_ms", "p99_ms")
    percentiles = np.percentile(together, (50, 95, 99)) if together else (0, 0, 0)
    return {
        "tokens_per_second": round(float(np.median(tokens_per_second)), 1),
        "texts_per_second": round(float(np.median(texts_per_second)), 2),
        **{name: round(float(ms), 2) for name, ms in zip(names, percentiles, strict=True)},
        "turns": {
            "p50_ms": [round(float(np.median(of_turn)), 2) for of_turn in milliseconds if of_turn],
            "texts_per_second": [round(rate, 2) for rate in texts_per_second],
        },
        "answers": len(together),
        "errors": {},
    }
