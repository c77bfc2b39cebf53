"""How fast do the stores write and find memories, and do they find the right ones?

    uv run --group bench python benchmarks/bench_memory.py --stores sqlite neo4j-2026.08.1 \
        --sizes 1000 10000 100000 --save FILE.json

Embeddings are made up, of 768 numbers (see synthetic_memories.py), so that nothing is embedded
here. A filter by user passes one memory in a hundred. Recall is against a scan in float64.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.draw import draw_lines  # noqa: E402
from benchmarks.machine import save_report  # noqa: E402
from benchmarks.synthetic_memories import (  # noqa: E402
    DIMENSIONS,
    Embeddings,
    SyntheticMemories,
    id_of,
    user_of,
)
from service.memory import StoreAddress, open_store  # noqa: E402
from service.memory.filters import EVERYTHING, Filter, TextIn  # noqa: E402
from service.memory.search import Mode, search  # noqa: E402
from service.memory.store import EmbeddingModel, MemoryStore, Selection  # noqa: E402
from tests.neo4j_server import VERSIONS, running_neo4j  # noqa: E402

TENANT = "default"
MODEL = EmbeddingModel("synthetic", "0" * 64, DIMENSIONS)
BATCH = 500
CONCURRENT = 64
QUERIES = 105
DROPPED = 5  # the first ones warm up
QUERY_WORDS = 6
MODES: tuple[Mode, ...] = ("vector", "text", "hybrid")
K = 10


async def measure(address: StoreAddress, size: int, server: psutil.Process | None) -> Any:
    """All figures of one store with so many memories."""
    made = SyntheticMemories()
    embeddings = made.embeddings(size)
    results: dict[str, Any] = {}
    before = _megabytes(psutil.Process())
    async with open_store(address, MODEL) as store:
        results["load"] = await _load(store, made, embeddings)
        results["write"] = await _write(store, made, size, sqlite=server is None)
        written = await store.count(_selection(EVERYTHING))
    started = time.perf_counter()
    async with open_store(address, MODEL) as store:
        results["reopen_seconds"] = round(time.perf_counter() - started, 2)
        assert await store.count(_selection(EVERYTHING)) == written
        everything = await _all_embeddings(store, written)
        results["search"] = await _search(store, made, everything)
    results["memory_mb"] = _megabytes(server) if server else _megabytes(psutil.Process()) - before
    return results


async def _load(store: MemoryStore, made: SyntheticMemories, embeddings: Embeddings) -> Any:
    seconds = []
    batches = made.batches(embeddings, BATCH)
    total = -(-len(embeddings) // BATCH)
    for drafts in tqdm(batches, total=total, unit="batch", disable=None):
        started = time.perf_counter()
        await store.remember(TENANT, drafts, now=datetime.now(UTC))
        seconds.append(time.perf_counter() - started)
    return {
        "memories_per_second": round(len(embeddings) / sum(seconds)),
        f"batch_of_{BATCH}": _percentiles(seconds),
    }


async def _write(store: MemoryStore, made: SyntheticMemories, first: int, *, sqlite: bool) -> Any:
    singles = 200
    crowd = 6_400 if sqlite else 640
    drafts = made.drafts(first, made.embeddings(singles + crowd))

    async def write(index: int) -> float:
        started = time.perf_counter()
        await store.remember(TENANT, [drafts[index]], now=datetime.now(UTC))
        return time.perf_counter() - started

    alone = [await write(index) for index in range(singles)]
    waiting = iter(range(singles, singles + crowd))

    async def client() -> list[float]:
        return [await write(index) for index in waiting]

    started = time.perf_counter()
    together = await asyncio.gather(*(client() for _ in range(CONCURRENT)))
    seconds = time.perf_counter() - started
    return {
        "single": _percentiles(alone),
        f"{CONCURRENT}_clients": _percentiles([each for some in together for each in some]),
        f"{CONCURRENT}_clients_per_second": round(crowd / seconds),
    }


async def _all_embeddings(store: MemoryStore, count: int) -> Embeddings:
    ids = [id_of(number) for number in range(count)]
    parts = [
        await store.embeddings(TENANT, ids[first : first + 1_000])
        for first in range(0, count, 1_000)
    ]
    everything: Embeddings = np.concatenate(parts)
    return everything


async def _search(store: MemoryStore, made: SyntheticMemories, everything: Embeddings) -> Any:
    queries = made.embeddings(QUERIES)
    texts = made.texts(QUERIES, QUERY_WORDS)
    results: dict[str, Any] = {}
    filters: dict[str, Filter] = {"all": EVERYTHING, "1 %": TextIn("user_id", (user_of(7),))}
    for name, filter_ in filters.items():
        passing = np.arange(len(everything))
        if name != "all":
            passing = passing[[user_of(int(number)) == user_of(7) for number in passing]]
        for mode in MODES:
            seconds, found = [], []
            for query, text in zip(queries, texts, strict=True):
                started = time.perf_counter()
                hits = await search(
                    store,
                    _selection(filter_),
                    query=text,
                    embedding=query,
                    mode=mode,
                    limit=K,
                )
                seconds.append(time.perf_counter() - started)
                found.append([hit.memory.id for hit in hits])
            figures = _percentiles(seconds[DROPPED:])
            if mode == "vector":
                figures["recall_at_10"] = _recall(found, queries, everything, passing)
            results[f"{mode}, {name}"] = figures
    return results


def _recall(
    found: Sequence[Sequence[str]],
    queries: Embeddings,
    everything: Embeddings,
    passing: "np.ndarray[Any, Any]",
) -> float:
    similarities = np.concatenate(
        [
            queries.astype(np.float64) @ everything[rows].astype(np.float64).T
            for rows in np.array_split(passing, -(-len(passing) // 50_000))
        ],
        axis=1,
    )
    k = min(K, len(passing))
    nearest = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
    right = [
        len({id_of(int(passing[index])) for index in row} & set(ids)) / k
        for row, ids in zip(nearest, found, strict=True)
    ]
    return round(statistics.fmean(right), 4)


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    p50, p95 = np.percentile(seconds, (50, 95)) * 1000
    return {"p50_ms": round(float(p50), 2), "p95_ms": round(float(p95), 2)}


def _selection(filter_: Filter) -> Selection:
    now = datetime.now(UTC)
    return Selection(tenant=TENANT, now=now, as_of=now, filter=filter_)


def _megabytes(process: psutil.Process) -> int:
    return round(process.memory_info().rss / 1e6)


def _disk_megabytes(folder: Path) -> int:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6)


@contextmanager
def place_of(store: str) -> Iterator[tuple[StoreAddress, psutil.Process | None, Path]]:
    """An empty store: its address, the process of its server, and the folder of its files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if store == "sqlite":
            yield StoreAddress(url=f"sqlite:///{folder}/memory.db"), None, folder
            return
        with running_neo4j(store.removeprefix("neo4j-"), folder) as server:
            address = StoreAddress(
                url=server.uri,
                neo4j_username=server.username,
                neo4j_password=server.password,
            )
            process = next(
                process
                for process in psutil.Process().children(recursive=True)
                if "java" in process.name()
            )
            yield address, process, folder / "data"


def main() -> None:
    stores = ["sqlite", *(f"neo4j-{version}" for version in VERSIONS)]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stores", nargs="+", choices=stores, default=["sqlite"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1_000, 10_000])
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    options = parser.parse_args()

    results: dict[str, Any] = {}
    for size in options.sizes:
        for store in options.stores:
            print(f"{store}, {size:,} memories", file=sys.stderr)
            with place_of(store) as (address, server, folder):
                figures = asyncio.run(measure(address, size, server))
                figures["disk_mb"] = _disk_megabytes(folder)
            results[f"{store}, {size:,}"] = figures
            print(json.dumps({f"{store}, {size:,}": figures}, indent=1))
            if options.save:
                save_report(options.save, __doc__.splitlines()[0], results)
    if options.save:
        draw_lines(
            _lines(results), "memories", "p50 of a search, ms", options.save.with_suffix(".svg")
        )


def _lines(results: dict[str, Any]) -> dict[str, dict[float, float]]:
    lines: dict[str, dict[float, float]] = {}
    for place, figures in results.items():
        store, _, size = place.partition(", ")
        for kind in ("vector, all", "vector, 1 %", "hybrid, all"):
            line = lines.setdefault(f"{store}: {kind}", {})
            line[int(size.replace(",", ""))] = figures["search"][kind]["p50_ms"]
    return lines


if __name__ == "__main__":
    main()
