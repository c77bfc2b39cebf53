"""Does the service hold for ten minutes at 80 % of what it can do, with all kinds of work at once?

    uv run --group bench python benchmarks/bench_soak.py BUNDLE --save FILE.json

One mix of work (MIX below) is first sent by clients that wait for their answers, which gives the
rate at which the service is saturated; they are on the same machine. Then it arrives at random at
80 % of that rate. What is written is forgotten again, so that the store keeps its size.

It fails where a request failed, where what the service holds grew by 5 % or more since the end of
the first quarter, where /metrics did not count what was sent, each request and each text once, or
where the service did not end in good order.
"""

import argparse
import asyncio
import itertools
import json
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import psutil
import tokenizers
import uvloop
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench_resident import running  # noqa: E402
from benchmarks.draw import draw_series  # noqa: E402
from benchmarks.http_load import Connections, Request, error_of, poisson_arrivals  # noqa: E402
from benchmarks.machine import save_report  # noqa: E402
from benchmarks.synthetic_texts import SyntheticTexts  # noqa: E402
from service.embedding.manifest import read_manifest  # noqa: E402
from service.embedding.prompts import default_prompt  # noqa: E402
from tests.telemetry.exposition import Scrape  # noqa: E402

# How often each kind of work is among a hundred requests.
MIX = {"interactive": 60, "bulk": 2, "remember": 18, "search": 19, "forget": 1}
ROUTES = {
    "interactive": "/v1/embeddings",
    "bulk": "/v1/embeddings",
    "remember": "/memories",
    "search": "/memories/search",
    "forget": "/memories/delete",
}
BULK_TEXTS = 32
KEPT_SESSIONS = 20  # each of as many memories as are remembered between two times of forgetting
CLIENTS = 16
SATURATION_SECONDS = 20.0
SHARE = 0.8
LIMIT = 0.05  # of growth


@dataclass(slots=True)
class Sent:
    """What was sent, and what became of it, by kind of work."""

    milliseconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    texts: int = 0


class Work:
    """The mix of requests, without end."""

    def __init__(self, texts: SyntheticTexts, max_tokens: int) -> None:
        self._texts = texts
        self._lengths = (min(length, max_tokens) for length in texts.mixed_lengths())
        self._session = 0
        kinds = [kind for kind, share in MIX.items() for _ in range(share)]
        order = np.random.default_rng(0).permutation(kinds).tolist()
        self.kinds: Iterator[str] = itertools.cycle(order)

    def next(self) -> tuple[str, Request]:
        """A kind of work, and a request of it."""
        kind = next(self.kinds)
        match kind:
            case "interactive" | "bulk":
                texts = [self._text() for _ in range(BULK_TEXTS if kind == "bulk" else 1)]
                return kind, _request({"input": texts, "encoding_format": "base64"}, len(texts))
            case "remember":
                session = f"session {self._session}"
                return kind, _request({"content": self._text(), "session_id": session}, 1)
            case "search":
                return kind, _request({"query": self._text(), "limit": 10}, 1)
            case _:
                self._session += 1
                old = f"session {self._session - KEPT_SESSIONS}"
                return kind, _request({"filter": {"session_id": old}}, 0)

    def _text(self) -> str:
        return self._texts.text(next(self._lengths))


class Load:
    """Sends work to a service, and keeps what became of it."""

    def __init__(self, port: int, work: Work) -> None:
        self._work = work
        self._connections = {
            kind: Connections(f"http://127.0.0.1:{port}{route}") for kind, route in ROUTES.items()
        }
        self.sent = Sent()

    async def one(self, due: float | None = None) -> None:
        """The next request, which was due now where nothing else is said."""
        kind, request = self._work.next()
        outcome = await self._connections[kind].send(request, due)
        error = None if outcome.status in (200, 201) else f"status {outcome.status}"
        if error is None and ROUTES[kind] == "/v1/embeddings":
            error = error_of(outcome)
        if error:
            self.sent.errors[kind][error] += 1
        self.sent.texts += request.texts
        self.sent.milliseconds[kind].append((outcome.answered - outcome.due) * 1000)

    async def saturate(self, seconds: float) -> float:
        """The requests a second of clients that wait for their answers."""
        started = time.perf_counter()
        before = self.requests

        async def client() -> None:
            while time.perf_counter() < started + seconds:
                await self.one()

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return (self.requests - before) / (time.perf_counter() - started)

    async def arrive(self, rate: float, seconds: float) -> None:
        """Requests that come at random, however many are still to be answered."""
        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for arrival in poisson_arrivals(rate, seconds, seed=0):
                due = started + arrival
                await asyncio.sleep(due - time.perf_counter())
                tasks.create_task(self.one(due))

    @property
    def requests(self) -> int:
        return sum(map(len, self.sent.milliseconds.values()))

    async def close(self) -> None:
        for connections in self._connections.values():
            await connections.close()


async def soak(
    process: psutil.Process, port: int, work: Work, seconds: float
) -> tuple[dict[str, Any], dict[float, float]]:
    """The figures, and the megabytes that the service held by the minute."""
    load = Load(port, work)
    saturation = await load.saturate(SATURATION_SECONDS)
    before = load.sent
    load.sent = Sent()
    held: dict[float, float] = {}
    started = time.perf_counter()

    async def watch() -> None:
        with tqdm(total=round(seconds), unit="s", disable=None) as progress:
            while True:
                passed = time.perf_counter() - started
                held[round(passed / 60, 3)] = round(process.memory_info().rss / 1e6, 1)
                progress.update(round(passed) - progress.n)
                await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    await load.arrive(SHARE * saturation, seconds)
    watching.cancel()
    took = time.perf_counter() - started
    await load.close()
    figures = {
        "saturation_requests_per_second": round(saturation, 1),
        "sent_requests_per_second": round(load.requests / took, 1),
        "seconds": round(took, 1),
        "work": describe(load.sent),
        "counted": await asyncio.to_thread(counted, port, before, load.sent),
    }
    return figures, held


def describe(sent: Sent) -> dict[str, dict[str, Any]]:
    """Requests, errors and latencies of each kind of work."""
    return {
        kind: {
            "requests": len(milliseconds),
            "errors": dict(sent.errors[kind]),
            **{
                f"p{percent}_ms": round(float(np.percentile(milliseconds, percent)), 2)
                for percent in (50, 95, 99)
            },
        }
        for kind, milliseconds in sorted(sent.milliseconds.items())
    }


def counted(port: int, *parts: Sent) -> dict[str, dict[str, int]]:
    """How many requests of each route and texts were sent, and how many /metrics has."""
    sent: Counter[str] = Counter()
    for part in parts:
        sent.update({"texts": part.texts})
        for kind, milliseconds in part.milliseconds.items():
            sent[ROUTES[kind]] += len(milliseconds)
    found: Counter[str] = Counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        scrape = Scrape(answer.read().decode())
    found["texts"] = int(scrape.total("memory_embedded_texts_total"))
    for route in {labels["route"] for labels in scrape.labels("memory_requests_total")}:
        found[route] = int(scrape.total("memory_requests_total", method="POST", route=route))
    return {name: {"sent": sent[name], "counted": found[name]} for name in sorted(sent | found)}


def broken_promises(figures: dict[str, Any], growth: float) -> list[str]:
    """What did not hold, in words."""
    broken = [
        f"{kind}: {of_kind['errors']}"
        for kind, of_kind in figures["work"].items()
        if of_kind["errors"]
    ]
    broken += [
        f"{name}: {count['sent']} were sent and {count['counted']} counted"
        for name, count in figures["counted"].items()
        if count["sent"] != count["counted"]
    ]
    if growth >= LIMIT:
        broken.append(f"memory grew by {growth:.1%}")
    return broken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--save", type=Path, metavar="FILE.json", help="also draws FILE.svg")
    options = parser.parse_args()

    tokenizer = tokenizers.Tokenizer.from_file(str(options.bundle / "tokenizer.json"))
    tokenizer.no_padding()  # which the starter model's file asks for, as for truncation
    tokenizer.no_truncation()
    manifest = read_manifest(options.bundle)
    work = Work(SyntheticTexts(tokenizer, default_prompt(manifest)), manifest.max_tokens)
    with (
        running(options.bundle) as (process, port),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        figures, held = runner.run(soak(process, port, work, options.minutes * 60))
    resident = list(held.values())
    quarter, tenth = len(resident) // 4, max(1, len(resident) // 10)
    warm, after = median(resident[quarter : quarter + tenth]), median(resident[-tenth:])
    growth = after / warm - 1
    figures |= {
        "warm_mb": round(warm),
        "after_mb": round(after),
        "peak_mb": round(max(resident)),
        "growth_since_warm": round(growth, 4),
    }
    print(json.dumps(figures, indent=1))
    if options.save:
        save_report(options.save, __doc__.splitlines()[0], figures | {"mb_by_minute": held})
        draw_series({"the service": held}, "minutes", "MB", options.save.with_suffix(".svg"))
    if broken := broken_promises(figures, growth):
        raise SystemExit("\n".join(broken))


def _request(body: dict[str, Any], texts: int) -> Request:
    return Request(msgspec.json.encode(body), texts, tokens=0)


if __name__ == "__main__":
    main()
