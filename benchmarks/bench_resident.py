"""How much memory does the service hold, ready, warm and after many requests of mixed sizes?

    uv run python benchmarks/bench_resident.py BUNDLE --save FILE.json

Texts have 60 tokens in the median, log-normally distributed, and at most the model's limit; every
fiftieth request has 32 of them. Eight clients send at once. After a tenth of the requests it counts
as warm; what it holds then and at the end are medians over a tenth of them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import save_report  # noqa: E402

CLIENTS = 8
MEDIAN_WORDS = 45  # about 60 tokens
WORDS_LIMIT = 1200  # about 2,000 tokens
WORDS = ("the", "ferry", "to", "a", "small", "town", "by", "lake", "leaves", "at", "seven", "with")


def make_requests(count: int) -> list[bytes]:
    """Bodies of requests; the same on each run."""
    rng = np.random.default_rng(0)
    bodies = []
    for index in range(count):
        texts = []
        for _ in range(32 if index % 50 == 49 else 1):
            words = min(WORDS_LIMIT, max(1, int(rng.lognormal(np.log(MEDIAN_WORDS), 1.0))))
            texts.append(" ".join(rng.choice(WORDS, words)))
        bodies.append(json.dumps({"input": texts, "truncate": True}).encode())
    return bodies


def send(port: int, body: bytes) -> int:
    """The number of tokens that were embedded."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/embeddings", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        tokens: int = json.load(response)["usage"]["total_tokens"]
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    options = parser.parse_args()

    folder = tempfile.TemporaryDirectory()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MEMORY_")}
    started = time.perf_counter()
    service = subprocess.Popen(
        [sys.executable, "-u", "-m", "service", "--model", options.bundle.resolve(), "--port", "0"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"MEMORY_STORE": f"sqlite:///{folder.name}/memory.db"},
    )
    assert service.stderr is not None
    try:
        port = next(
            int(line.split("127.0.0.1:")[1].split()[0])
            for line in service.stderr
            if "ready" in line
        )
        seconds_to_ready = time.perf_counter() - started
        process = psutil.Process(service.pid)
        ready = process.memory_info().rss
        bodies = make_requests(options.requests)
        tokens = 0
        resident = []
        with ThreadPoolExecutor(CLIENTS) as clients:
            sent = clients.map(lambda body: send(port, body), bodies)
            progress = tqdm(sent, total=len(bodies), unit="request", disable=None)
            for answered in progress:
                tokens += answered
                resident.append(process.memory_info().rss)
        tenth = len(resident) // 10
        warm, after = median(resident[tenth : 2 * tenth]), median(resident[-tenth:])
    finally:
        service.terminate()
        status = service.wait()
        folder.cleanup()
    results = {
        "seconds_to_ready": round(seconds_to_ready, 2),
        "ready_mb": round(ready / 1e6),
        "warm_mb": round(warm / 1e6),
        "after_mb": round(after / 1e6),
        "growth_since_warm": round(after / warm - 1, 4),
        "peak_mb": round(max(resident) / 1e6),
        "requests": options.requests,
        "tokens": tokens,
        "exit_status": status,
    }
    print(json.dumps(results, indent=1))
    if options.save:
        save_report(options.save, __doc__.splitlines()[0], results)


if __name__ == "__main__":
    main()
