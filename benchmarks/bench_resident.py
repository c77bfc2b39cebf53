"""How much memory does the service hold, ready, warm and after many requests of random sizes?

    uv run --group bench python benchmarks/bench_resident.py BUNDLE --save FILE.json

Texts have 24 tokens in the median, log-normally distributed, prompt included, up to the 2,048 that
the model reads; requests have n texts in proportion to n ** -2.5, up to 64. Every 200th request is
one text of 2,048 tokens, and two of all are 64 such texts. The mean is 112 tokens a request. Eight
clients send at once.

After a tenth of the requests the service counts as warm; what it holds then and at the end are
medians over a tenth of them. It fails where that grew by 5 % or more.
"""

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import tokenizers
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.draw import draw_series  # noqa: E402
from benchmarks.machine import save_report  # noqa: E402
from benchmarks.synthetic_texts import SyntheticTexts  # noqa: E402
from service.embedding.manifest import read_manifest  # noqa: E402
from service.embedding.prompts import default_prompt  # noqa: E402
from tests.service_process import running_service  # noqa: E402

CLIENTS = 8
MEDIAN_TOKENS, SPREAD = 24, 1.2
FEWEST_TOKENS, MOST_TOKENS = 12, 2_048
MOST_TEXTS = 64
LIMIT = 0.05  # of growth
SAMPLES = 200  # that are kept of what it held


def make_sizes(count: int) -> list[list[int]]:
    """The tokens of each text of each request; the same on each run."""
    rng = np.random.default_rng(0)
    possible = np.arange(1.0, MOST_TEXTS + 1)
    shares = possible**-2.5
    texts = rng.choice(possible.astype(int), count, p=shares / shares.sum())
    sizes = []
    for index, number in enumerate(texts.tolist()):
        if index % (count // 2) == count // 20:
            sizes.append([MOST_TOKENS] * MOST_TEXTS)
        elif index % 200 == 199:
            sizes.append([MOST_TOKENS])
        else:
            drawn = rng.lognormal(np.log(MEDIAN_TOKENS), SPREAD, number).astype(int)
            sizes.append(drawn.clip(FEWEST_TOKENS, MOST_TOKENS).tolist())
    return sizes


@contextmanager
def running(bundle: Path) -> Iterator[tuple[psutil.Process, int]]:
    """The service over this bundle, and its port, from when it is ready.

    Raises:
        SystemExit: it ended with an error.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(Path(folder), "--model", str(bundle.resolve())) as service,
    ):
        yield psutil.Process(service.process.pid), service.port
        if status := service.end():
            raise SystemExit(f"the service ended with status {status}")


def send(port: int, texts: list[str]) -> int:
    """The number of tokens that were embedded."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/embeddings",
        json.dumps({"input": texts}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=3600) as response:
        tokens: int = json.load(response)["usage"]["total_tokens"]
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--save", type=Path, metavar="FILE.json", help="also draws FILE.svg")
    options = parser.parse_args()

    tokenizer = tokenizers.Tokenizer.from_file(str(options.bundle / "tokenizer.json"))
    made = SyntheticTexts(tokenizer, default_prompt(read_manifest(options.bundle)))
    sizes = make_sizes(options.requests)
    requests = [[made.text(tokens) for tokens in of_request] for of_request in sizes]

    started = time.perf_counter()
    with running(options.bundle) as (service, port), ThreadPoolExecutor(CLIENTS) as clients:
        seconds_to_ready = time.perf_counter() - started
        ready = service.memory_info().rss
        tokens, resident = 0, []
        sent = clients.map(lambda texts: send(port, texts), requests)
        for answered in tqdm(sent, total=len(requests), unit="request", disable=None):
            tokens += answered
            resident.append(service.memory_info().rss)
    tenth = len(resident) // 10
    warm, after = median(resident[tenth : 2 * tenth]), median(resident[-tenth:])
    growth = after / warm - 1
    results = {
        "seconds_to_ready": round(seconds_to_ready, 2),
        "ready_mb": round(ready / 1e6),
        "warm_mb": round(warm / 1e6),
        "after_mb": round(after / 1e6),
        "growth_since_warm": round(growth, 4),
        "peak_mb": round(max(resident) / 1e6),
        "requests": options.requests,
        "tokens": tokens,
    }
    print(json.dumps(results, indent=1))
    if options.save:
        step = max(1, len(resident) // SAMPLES)
        held: dict[float, float] = {
            n: round(resident[n - 1] / 1e6) for n in range(step, len(resident) + 1, step)
        }
        save_report(options.save, __doc__.splitlines()[0], results | {"mb_after_requests": held})
        draw_series({"the service": held}, "requests", "MB", options.save.with_suffix(".svg"))
    if growth >= LIMIT:
        raise SystemExit(f"memory grew by {growth:.1%} since the service was warm")


if __name__ == "__main__":
    main()
