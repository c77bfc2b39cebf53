"""Every request is counted once by the running service, whatever becomes of it."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service_process import DEADLINE_SECONDS, ServiceProcess, running_service
from tests.telemetry.exposition import Scrape

REQUESTS = 300
AT_A_TIME = 24

# As clients of MCP have to send them.
HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}

# Statuses of clients that left: before they were answered, or meanwhile.
LEFT = 499


@pytest.fixture(scope="module")
def service(
    fragile_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    limits = ("--max-queued-tokens", "3000", "--log-format", "json")
    with running_service(folder, "--model", str(fragile_bundle), *limits) as service:
        yield service


def request_of(kind: str, number: int) -> tuple[str, str, bytes]:
    """Method, path and body."""
    texts = {
        "embed": [f"text {number}"],
        "bulk": [f"{number} {n} " + "word " * 90 for n in range(20)],
        "empty": [],
        "failing": ["a loud volcano", f"a quiet hill {number}"],
        "left": [f"{number} {n} " + "word " * 90 for n in range(20)],
    }
    match kind:
        case "remember":
            return "POST", "/memories", json.dumps({"content": f"note {number}"}).encode()
        case "mcp":
            ping = {"jsonrpc": "2.0", "id": number, "method": "ping"}
            return "POST", "/mcp", json.dumps(ping).encode()
        case "missing":
            return "GET", f"/memories/{number}", b""
        case "export":
            return "GET", "/export", b""
        case "unknown":
            return "GET", f"/nowhere/{number}", b""
        case "wrong method":
            return "PATCH", "/tags", b""
        case "half":
            return "POST", "/v1/embeddings", b'{"input": ['
        case _:
            return "POST", "/v1/embeddings", json.dumps({"input": texts[kind]}).encode()


KINDS = (
    *("embed", "bulk", "empty", "failing", "left", "remember", "missing", "export", "unknown"),
    *("wrong method", "half", "mcp"),
)


async def leave(service: ServiceProcess, method: str, path: str, body: bytes) -> None:
    """Send a request and go away."""
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    await asyncio.sleep(0.01)
    writer.transport.abort()


async def ask_all(service: ServiceProcess, kinds: list[str]) -> tuple[Counter[int], int]:
    """How often which status came, and the tokens of all answers."""
    statuses: Counter[int] = Counter()
    tokens = 0
    free = asyncio.Semaphore(AT_A_TIME)

    async def ask(client: httpx.AsyncClient, number: int, kind: str) -> None:
        nonlocal tokens
        method, path, body = request_of(kind, number)
        async with free:
            if kind == "left":
                await leave(service, method, path, body)
                return
            response = await client.request(method, path, content=body, headers=HEADERS)
        statuses[response.status_code] += 1
        if path == "/v1/embeddings" and response.status_code == 200:
            tokens += response.json()["usage"]["prompt_tokens"]

    async with httpx.AsyncClient(base_url=service.url, timeout=DEADLINE_SECONDS) as client:
        await asyncio.gather(*(ask(client, *each) for each in enumerate(kinds)))
    return statuses, tokens


def scrape_once_counted(service: ServiceProcess, requests: int) -> Scrape:
    """The metrics as soon as so many requests have ended, besides scrapes."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        metrics = Scrape(httpx.get(f"{service.url}/metrics").text)
        counted = metrics.total("memory_requests_total")
        if counted - metrics.total("memory_requests_total", route="/metrics") >= requests:
            return metrics
        assert time.monotonic() < deadline, counted
        time.sleep(0.05)


@pytest.mark.anyio
async def test_every_request_is_counted_and_logged_once(service: ServiceProcess) -> None:
    rng = random.Random(7)
    kinds = rng.choices(KINDS, k=REQUESTS)
    statuses, tokens = await ask_all(service, kinds)
    metrics = await asyncio.to_thread(scrape_once_counted, service, REQUESTS)
    counted: Counter[int] = Counter()
    for labels in metrics.labels("memory_requests_total"):
        if labels["route"] != "/metrics":
            counted[int(labels["status"])] += int(metrics.total("memory_requests_total", **labels))
    assert counted.total() == REQUESTS
    # A client that left may have been answered in time, or refused.
    left = counted - statuses
    assert not statuses - counted
    assert left.total() == kinds.count("left")
    assert set(left) <= {LEFT, 200, 429}
    assert left[LEFT]
    assert {200, 201, 400, 404, 405, 429, 500} <= set(statuses)

    timed = metrics.total("memory_request_seconds_count")
    assert timed - metrics.total("memory_request_seconds_count", route="/metrics") == REQUESTS
    refused = sum(count for status, count in counted.items() if status >= 400 and status != LEFT)
    assert metrics.total("memory_problems_total") == refused
    assert metrics.total("memory_problems_total", code="overloaded") == counted[429]
    of_memories = metrics.total("memory_store_operation_seconds_count", operation="remember")
    assert of_memories == counted[201]
    assert metrics.total("memory_queued_tokens") == 0

    # ONNX Runtime, too, writes what fails, in its own way.
    lines = [json.loads(line) for line in service.log.splitlines() if line.startswith("{")]
    answered = [line for line in lines if line["message"] == "answered"]
    assert Counter(line["status"] for line in answered) == counted
    assert len({line["request_id"] for line in answered}) == REQUESTS
    assert [line for line in lines if line["level"] == "INFO" and "request_id" in line] == answered
    embedded = [line for line in answered if line["route"] == "/v1/embeddings"]
    whole = sum(line.get("tokens", 0) for line in embedded if line["status"] == 200)
    assert whole >= tokens
    of_all = sum(line.get("tokens", 0) for line in answered)
    assert metrics.total("memory_embedded_tokens_total") == of_all
