import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from benchmarks.http_load import (
    Outcome,
    Request,
    Turn,
    closed_loop,
    error_of,
    open_loop,
    poisson_arrivals,
    summarise,
)

pytestmark = pytest.mark.anyio

ONE_TEXT = Request(b'{"input": ["a"]}', texts=1, tokens=16)


def embeddings(*rows: object) -> bytes:
    return json.dumps({"data": [{"embedding": row} for row in rows]}).encode()


def with_length(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def in_chunks(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    halves = body[:9], body[9:]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(half), half) for half in halves) + b"0\r\n\r\n"


@asynccontextmanager
async def server(answer: bytes, *, leaves: bool = False) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that always answers these bytes; its URL, and the bodies that it got.

    It `leaves` after each answer without a word, as servers do when a connection is idle for long.
    """
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # the client is done
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split()[0])
                bodies.append(await reader.readexactly(length))
                writer.write(answer)
                if leaves or not answer or b"\r\nConnection: close" in answer:
                    break
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/embeddings", bodies


@pytest.mark.parametrize("embedding", [[0.5, 0.5, 0.5], "AAAAPwAAAD8AAAA/"])
@pytest.mark.parametrize("write", [lambda body: with_length("200 OK", body), in_chunks])
async def test_an_answer_is_read_however_it_is_written(
    write: Callable[[bytes], bytes], embedding: object
) -> None:
    async with server(write(embeddings(embedding))) as (url, bodies):
        turn = await open_loop(url, itertools.repeat(ONE_TEXT), [0.0, 0.0, 0.0])
    assert [error_of(outcome) for outcome in turn.outcomes] == [None] * 3
    assert bodies == [ONE_TEXT.body] * 3


async def test_a_connection_that_the_server_closes_is_not_used_again() -> None:
    closing = with_length("200 OK\r\nConnection: close", embeddings([1.0]))
    async with server(closing) as (url, _):
        turn = await closed_loop(url, itertools.repeat(ONE_TEXT), clients=1, seconds=0.05)
    assert len(turn.outcomes) > 1
    assert not any(map(error_of, turn.outcomes))


async def test_a_connection_that_the_server_has_left_is_not_used_again() -> None:
    async with server(with_length("200 OK", embeddings([1.0])), leaves=True) as (url, _):
        turn = await open_loop(url, itertools.repeat(ONE_TEXT), [0.0, 0.2, 0.4])
    assert not any(map(error_of, turn.outcomes))


async def test_what_is_not_answered_is_an_error() -> None:
    async with server(b"") as (url, _):
        turn = await open_loop(url, iter([ONE_TEXT]), [0.0])
    assert [error_of(outcome) for outcome in turn.outcomes] == ["no answer"]
    turn = await open_loop(url, iter([ONE_TEXT]), [0.0])
    assert [error_of(outcome) for outcome in turn.outcomes] == ["no answer"]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, embeddings([1.0, 2.0]), None),
        (429, b"{}", "status 429"),
        (200, b"{}", "not an answer"),
        (200, embeddings([1.0], [1.0]), "wrong embeddings"),
        (200, embeddings([]), "wrong embeddings"),
    ],
)
def test_an_answer_needs_one_embedding_a_text(status: int, body: bytes, error: str | None) -> None:
    assert error_of(Outcome(ONE_TEXT, 0, 1, status, body)) == error


def test_embeddings_of_one_answer_have_one_size() -> None:
    request = Request(b"", texts=2, tokens=32)
    assert error_of(Outcome(request, 0, 1, 200, embeddings([1.0], [1.0]))) is None
    assert error_of(Outcome(request, 0, 1, 200, embeddings([1.0], [1.0, 2.0]))) is not None


def test_latency_counts_from_when_a_request_was_due() -> None:
    late = Outcome(ONE_TEXT, 10.0, 13.0, 200, embeddings([1.0]))
    turn = Turn(started=9.0, outcomes=[late])
    assert summarise([turn])["p50_ms"] == 3000
    assert summarise([turn])["tokens_per_second"] == 4


def test_errors_count_and_add_no_throughput() -> None:
    good = Outcome(ONE_TEXT, 0.0, 2.0, 200, embeddings([1.0]))
    refused = Outcome(ONE_TEXT, 0.0, 3.0, 429, b"")
    figures = summarise([Turn(started=0.0, outcomes=[good, refused])])
    assert figures["tokens_per_second"] == 8
    assert figures["answers"] == 1
    assert figures["errors"] == {"status 429": 1}


def test_a_load_that_is_refused_has_figures_too() -> None:
    refused = Outcome(ONE_TEXT, 0.0, 3.0, 413, b"")
    figures = summarise([Turn(started=0.0, outcomes=[refused])])
    assert figures["tokens_per_second"] == figures["p99_ms"] == 0
    assert figures["errors"] == {"status 413": 1}


def test_arrivals_have_the_rate_and_are_the_same_again() -> None:
    arrivals = list(poisson_arrivals(50, 100, seed=1))
    assert arrivals == sorted(arrivals)
    assert 0 < arrivals[0] < arrivals[-1] < 100
    assert 4_700 < len(arrivals) < 5_300  # 5,000 and four standard deviations
    assert list(poisson_arrivals(50, 100, seed=1)) == arrivals
    assert list(poisson_arrivals(50, 100, seed=2)) != arrivals
