"""How much memory does the service hold, ready and after many requests of mixed sizes?

    uv run python benchmarks/bench_resident.py BUNDLE --save FILE.json

Texts have 60 tokens in the median, log-normally distributed, and at most the model's limit; every
tenth request has 32 of them. Eight clients send at once.
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
        for _ in range(32 if index % 10 == 9 else 1):
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
    parser.add_argument("--requests", type=int, default=1000)
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
        peak, tokens = ready, 0
        with ThreadPoolExecutor(CLIENTS) as clients:
            sent = clients.map(lambda body: send(port, body), bodies)
            for answered in tqdm(sent, total=len(bodies), unit="request", disable=None):
                tokens += answered
                peak = max(peak, process.memory_info().rss)
        after = process.memory_info().rss
    finally:
        service.terminate()
        status = service.wait()
        folder.cleanup()
    results = {
        "seconds_to_ready": round(seconds_to_ready, 2),
        "ready_mb": round(ready / 1e6),
        "after_mb": round(after / 1e6),
        "peak_mb": round(peak / 1e6),
        "requests": options.requests,
        "tokens": tokens,
        "exit_status": status,
    }
    print(json.dumps(results, indent=1))
    if options.save:
        save_report(options.save, __doc__.splitlines()[0], results)


if __name__ == "__main__":
    main()
