"""Does the service answer every request as its OpenAPI document says, however odd it is?

    uv run python benchmarks/bench_fuzz.py BUNDLE --cases 100000 --save FILE.json

A service of its own on a loopback address is sent made-up requests (tests/fuzzing.py says which)
until there were so many. Its exit status is 1 if an answer was wrong, or the service did not end
as it should, and then the requests are printed.
"""

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import save_report  # noqa: E402
from tests.fuzzing import Fuzzed, Phase, fuzz, fuzz_in_chains  # noqa: E402
from tests.service_process import running_service  # noqa: E402
from tests.telemetry.exposition import Scrape  # noqa: E402

EXAMPLES = 25  # for each operation, of the first seed
SECONDS = 300  # of chains, with each other seed

REQUESTS = "memory_requests_total"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    options = parser.parse_args()

    started = time.perf_counter()
    cases = seeds = 0
    failures = ""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            running_service(folder, "--model", str(options.bundle.resolve())) as service,
            tqdm(total=options.cases, unit="case", disable=None) as progress,
        ):
            while cases < options.cases and not failures:
                seeds += 1
                fuzzed = _fuzz(service.url, folder, seeds)
                cases += fuzzed.cases
                failures = fuzzed.failures
                progress.update(fuzzed.cases)
            answers = _answers(service.url)
            status = service.end()
            tracebacks = service.log.count("Traceback")
    results = {
        "cases": cases,
        "seeds": seeds,
        "seconds": round(time.perf_counter() - started),
        "answers": answers,
        "wrong_answers": bool(failures),
        "tracebacks": tracebacks,
        "exit_status": status,
    }
    print(failures + json.dumps(results, indent=1))
    if options.save:
        save_report(options.save, __doc__.splitlines()[0], results)
    return int(bool(failures) or tracebacks > 0 or status != 0)


def _fuzz(url: str, folder: Path, seed: int) -> Fuzzed:
    if seed == 1:  # another one covers the same
        phases: list[Phase] = ["coverage", "fuzzing", "stateful"]
        return fuzz(url, folder, phases, examples=EXAMPLES, seed=seed)
    return fuzz_in_chains(url, folder, seconds=SECONDS, seed=seed)


def _answers(url: str) -> dict[str, int]:
    """How many requests the service has answered, by status."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        scrape = Scrape(answer.read().decode())
    statuses = sorted({labels["status"] for labels in scrape.labels(REQUESTS)})
    return {status: int(scrape.total(REQUESTS, status=status)) for status in statuses}


if __name__ == "__main__":
    sys.exit(main())
