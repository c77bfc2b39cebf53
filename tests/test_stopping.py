"""What becomes of requests when the service is told to stop, or their clients leave."""

import json
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.service_process import DEADLINE_SECONDS, ServiceProcess, running_service
from tests.writers import Written, check_everything, new_memory, wait_for_writes, writing

WRITES = 30


def embedding(texts: int) -> tuple[str, object]:
    """The path and the body of a request for the embeddings of texts of some hundred tokens."""
    return "/v1/embeddings", {"input": [f"{n} " + "word " * 97 for n in range(texts)]}


def begin(service: ServiceProcess, path: str, content: object) -> socket.socket:
    """A connection with a request that the application has begun to read and not yet answered."""
    body = json.dumps(content).encode()
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=DEADLINE_SECONDS)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    connection.sendall(head.encode())
    assert connection.recv(1_000).startswith(b"HTTP/1.1 100 Continue")
    connection.sendall(body)
    return connection


def read_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head and the body of what is answered until the connection is closed."""
    received = b""
    while more := connection.recv(1 << 16):
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_lets_accepted_requests_finish(
    prompted_bundle: Path, tmp_path: Path, signum: int
) -> None:
    """Told twice, as `uv run` and supervisors that signal a whole group do."""
    flags = ("--model", str(prompted_bundle), "--shutdown-grace-seconds", str(DEADLINE_SECONDS))
    with running_service(tmp_path, *flags) as service:
        port = service.port
        idle = socket.create_connection(("127.0.0.1", port))
        with idle, begin(service, *embedding(200)) as connection:
            service.process.send_signal(signum)
            service.wait_for("stopping; finishing 1 requests")
            service.process.send_signal(signum)
            head, body = read_answer(connection)
        assert head.startswith(b"HTTP/1.1 200")
        assert len(json.loads(body)["data"]) == 200
        assert service.wait() == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        assert "Traceback" not in service.log


def test_what_is_not_finished_in_the_grace_is_an_error(
    prompted_bundle: Path, tmp_path: Path
) -> None:
    flags = ("--model", str(prompted_bundle), "--shutdown-grace-seconds", "0")
    with (
        running_service(tmp_path, *flags) as service,
        begin(service, *embedding(2_000)),
    ):
        assert service.end() == 1
        assert "1 requests did not finish in 0 s" in service.log


def test_nothing_is_computed_for_a_client_that_left(prompted_bundle: Path, tmp_path: Path) -> None:
    with running_service(tmp_path, "--model", str(prompted_bundle)) as service:
        begin(service, *embedding(2_000)).close()
        assert httpx.get(f"{service.url}/health/live").status_code == 200
        assert service.end() == 0


@pytest.mark.slow
def test_accepted_writes_and_bulk_are_finished_and_kept(
    prompted_bundle: Path, tmp_path: Path
) -> None:
    grace = ("--shutdown-grace-seconds", str(DEADLINE_SECONDS))
    with running_service(tmp_path, "--model", str(prompted_bundle), *grace) as service:
        requests = [embedding(40), embedding(80)]
        batch = [new_memory(f"batch-{n}") for n in range(50)]
        requests.append(("/memories/batch", {"memories": batch}))
        requests += [("/memories", new_memory(f"one-{n}")) for n in range(WRITES)]
        with ExitStack() as stack:
            connections = [
                stack.enter_context(begin(service, path, body)) for path, body in requests
            ]
            service.process.send_signal(signal.SIGTERM)
            service.wait_for("stopping; finishing [1-9]")
            answers = [read_answer(connection) for connection in connections]
        assert {head.split()[1] for head, _ in answers} <= {b"200", b"201"}
        assert service.wait() == 0
    with running_service(tmp_path, "--model", str(prompted_bundle)) as service:
        for id in [f"one-{n}" for n in range(WRITES)] + [f"batch-{n}" for n in range(50)]:
            assert httpx.get(f"{service.url}/memories/{id}").status_code == 200


@pytest.mark.slow
def test_what_was_acknowledged_under_load_is_kept(prompted_bundle: Path, tmp_path: Path) -> None:
    flags = ("--model", str(prompted_bundle))
    written = Written()
    for round in range(3):
        with running_service(tmp_path, *flags) as service:
            with writing(service.url, f"r{round}", written):
                wait_for_writes(written, 100)
                assert service.end() == 0
            assert "Traceback" not in service.log
    with running_service(tmp_path, *flags) as service:
        check_everything(service.url, written)
    assert not written.refused
