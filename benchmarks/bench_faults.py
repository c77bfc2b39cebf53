"""What do clients see while the disk is full under SQLite, and while Neo4j is gone?

    uv run python benchmarks/bench_faults.py BUNDLE --save FILE.json

Four clients write as fast as they can (tests/faults.py). Each fault lasts for a minute. It fails
where an answer is no clear refusal, where the service does not recover by itself, or where anything
that was acknowledged is missing. The small disk that is filled takes root, and Neo4j what its tests
take.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import save_report  # noqa: E402
from tests.faults import fill_the_disk, take_neo4j_away  # noqa: E402
from tests.neo4j_server import running_neo4j, versions_to_test  # noqa: E402

FAULTS = ("disk full", "neo4j killed", "neo4j stopped")


def measure(fault: str, bundle: Path, seconds: float) -> dict[str, Any]:
    """What clients saw of one fault."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if fault == "disk full":
            return fill_the_disk(bundle, folder, seconds)
        (version, *_) = versions_to_test()
        with running_neo4j(version, folder / "neo4j") as server:
            os.environ["NEO4J_USERNAME"] = server.username
            os.environ["NEO4J_PASSWORD"] = server.password
            how: Literal["killed", "stopped"] = "killed" if "killed" in fault else "stopped"
            return take_neo4j_away(bundle, folder, server, how, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--seconds", type=float, default=60, help="how long each lasts")
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    results = {}
    for fault in tqdm(options.faults, unit="fault", disable=None):
        results[fault] = measure(fault, options.bundle.resolve(), options.seconds)
    print(json.dumps(results, indent=1))
    if options.save:
        save_report(options.save, __doc__.splitlines()[0], results)


if __name__ == "__main__":
    main()
