"""What a running service does with requests that are slow, large, broken or unusual."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.service_process import DEADLINE_SECONDS, ServiceProcess, running_service

RECEIVE_TIMEOUT_SECONDS = 1

# As much as is kept of a head. Several of them come in several pieces.
LARGE = b"a" * 65_536

HOST = b"Host: localhost\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = b"GET /nowhere HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
EMBED = b"POST /v1/embeddings HTTP/1.1\r\n" + HOST


@pytest.fixture(scope="module")
def service(
    prompted_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    patience = ("--receive-timeout-seconds", str(RECEIVE_TIMEOUT_SECONDS))
    with running_service(folder, "--model", str(prompted_bundle), *patience) as service:
        yield service


@pytest.fixture
def connection(service: ServiceProcess) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.port), DEADLINE_SECONDS) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """What comes until the service closes the connection."""
    received = b""
    while more := connection.recv(1 << 16):
        received += more
    return received


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """What comes up to this end."""
    received = b""
    while not received.endswith(end):
        more = connection.recv(1 << 16)
        assert more, received
        received += more
    return received


def ask_live(connection: socket.socket) -> None:
    """A request and its answer, after which the connection is idle."""
    connection.sendall(LIVE)
    assert read_until(connection, b'{"live":true}').startswith(b"HTTP/1.1 200 ")


def send_nothing(connection: socket.socket) -> None:
    pass


def send_half_a_head(connection: socket.socket) -> None:
    connection.sendall(LIVE[:-2])


def send_half_a_second_head(connection: socket.socket) -> None:
    ask_live(connection)
    send_half_a_head(connection)


def send_a_byte_at_a_time(connection: socket.socket) -> None:
    trickle(connection, b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 100)


def send_blank_lines_after_a_request(connection: socket.socket) -> None:
    ask_live(connection)
    trickle(connection, b"\n" * 100)


def trickle(connection: socket.socket, content: bytes) -> None:
    """Send ten bytes a timeout, until the service has closed the connection."""
    connection.settimeout(RECEIVE_TIMEOUT_SECONDS / 10)
    for byte in content:
        connection.sendall(bytes([byte]))
        with suppress(TimeoutError):
            connection.recv(1, socket.MSG_PEEK)
            return
    pytest.fail("it reads them all")


@pytest.mark.parametrize(
    "send",
    [
        send_nothing,
        send_half_a_head,
        send_half_a_second_head,
        send_a_byte_at_a_time,
        send_blank_lines_after_a_request,
    ],
)
def test_a_head_that_does_not_arrive_ends_with_the_connection(
    connection: socket.socket, send: Callable[[socket.socket], None]
) -> None:
    send(connection)
    connection.settimeout(DEADLINE_SECONDS)
    assert connection.recv(1) == b""


def test_an_idle_connection_is_kept_for_the_next_request(connection: socket.socket) -> None:
    ask_live(connection)
    time.sleep(RECEIVE_TIMEOUT_SECONDS * 1.5)
    connection.sendall(LIVE[:10])
    time.sleep(RECEIVE_TIMEOUT_SECONDS / 10)
    connection.sendall(LIVE[10:])
    assert read_until(connection, b'{"live":true}').startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (LIVE[:-2] + b"X: ", LARGE),
        (LIVE[:-2], b"X: a\r\n" * (len(LARGE) // 6)),
        (b"GET /", LARGE),
        (EMBED + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX: ", LARGE),
    ],
    ids=["header", "headers", "path", "trailer"],
)
def test_a_head_that_is_too_large_is_refused_while_it_arrives(
    connection: socket.socket, head: bytes, more: bytes
) -> None:
    connection.sendall(head)
    with suppress(ConnectionError):
        for _ in range(20):
            connection.sendall(more)
    assert connection.recv(1_000).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "broken",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
        LIVE[:-2] + b"X : a\r\n\r\n",
        b"CONNECT localhost:443 HTTP/1.1\r\n" + HOST + b"\r\n",
        EMBED + b"Content-Length: x\r\n\r\n",
        EMBED + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        EMBED + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
    ],
    ids=[
        "no HTTP",
        "TLS",
        "method",
        "path",
        "header",
        "CONNECT",
        "length",
        "two lengths",
        "chunk",
    ],
)
def test_what_is_not_http_is_refused_and_no_error(
    service: ServiceProcess, connection: socket.socket, broken: bytes
) -> None:
    connection.sendall(broken)
    assert read_all(connection).startswith(b"HTTP/1.1 400 ")
    assert "Traceback" not in service.log


def test_requests_that_are_sent_at_once_are_answered_in_their_order(
    connection: socket.socket,
) -> None:
    body = json.dumps({"input": "tea"}).encode()
    embed = EMBED + b"Content-Length: %d\r\n\r\n" % len(body) + body
    connection.sendall(LIVE + embed + LIVE + LAST)
    answers = read_all(connection).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"200", b"200", b"404"]
    assert b'"embedding"' in answers[1]


def test_requests_that_nobody_answers_yet_are_not_heaped_up(connection: socket.socket) -> None:
    connection.sendall(LIVE * 100)
    assert connection.recv(1_000).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /health/live HTTP/1.0\r\n\r\n",
        b"GET /health/live HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    ],
)
def test_a_connection_is_closed_after_the_answer_where_the_client_wants_it(
    connection: socket.socket, request_: bytes
) -> None:
    connection.sendall(request_)
    answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b'\r\n\r\n{"live":true}')


def test_a_request_that_would_rather_speak_http_2_is_answered(
    connection: socket.socket,
) -> None:
    body = json.dumps({"input": "tea"}).encode()
    # As Java's HttpClient sends it.
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    embed = EMBED + b"Content-Length: %d\r\n" % len(body) + upgrade + b"\r\n" + body
    connection.sendall(LIVE[:-2] + upgrade + b"\r\n" + embed + LAST)
    answers = read_all(connection).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"200", b"404"]
    assert b'"embedding"' in answers[1]


def test_all_that_a_client_asked_at_once_ends_when_it_leaves(
    service: ServiceProcess, connection: socket.socket
) -> None:
    body = json.dumps({"input": [f"{n} " + "word " * 97 for n in range(1_000)]}).encode()
    head = EMBED + b"Content-Length: %d\r\nX-Request-Id: left\r\nExpect: 100-continue\r\n\r\n"
    connection.sendall(head % len(body))
    assert connection.recv(1_000).startswith(b"HTTP/1.1 100 ")
    connection.sendall(body + LIVE)
    connection.close()
    service.wait_for(r"status=499 .*request_id=left")
