"""How many tokens a second does the engine embed, beside its peers on the same checkpoint?

    uv run --extra export --group bench python benchmarks/bench_engine.py BUNDLE \
        --peers CHECKPOINT --save benchmarks/results/engine-MACHINE.json

Each engine is loaded in a process of its own, and the engines take turns at every shape, so that
what else the machine does falls on all of them alike. Only one works at a time.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.draw import draw_bars  # noqa: E402
from benchmarks.engines import PEERS, export_peers  # noqa: E402
from benchmarks.machine import save_report  # noqa: E402

DEFAULT_SHAPES = ("1x16", "8x32", "8x128", "4x512")


class EngineProcess:
    """An engine loaded in a process of its own."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.engines", name, str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self._answer()

    def run(self, shape: str, seconds: float) -> list[float]:
        """The seconds of each batch of this shape that it ran in about so many seconds."""
        texts, tokens = shape.split("x")
        assert self._process.stdin is not None
        print(texts, tokens, seconds, file=self._process.stdin, flush=True)
        took: list[float] = json.loads(self._answer())
        return took

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self._process.wait()}")
        return line


def measure(engines: list[EngineProcess], shapes: list[str], rounds: int, seconds: float) -> Any:
    """{shape: {engine: {tokens_per_second, best_tokens_per_second, milliseconds}}}"""
    took: dict[str, dict[str, list[float]]] = {
        shape: {engine.name: [] for engine in engines} for shape in shapes
    }
    turns = [(shape, engine) for _ in range(rounds) for shape in shapes for engine in engines]
    for shape, engine in tqdm(turns, unit="turn", disable=None):
        took[shape][engine.name] += engine.run(shape, seconds)
    results = {}
    for shape, by_engine in took.items():
        texts, tokens = map(int, shape.split("x"))
        results[shape] = {
            name: {
                "tokens_per_second": round(texts * tokens / median(times), 1),
                "best_tokens_per_second": round(texts * tokens / min(times), 1),
                "milliseconds": round(median(times) * 1000, 2),
                "batches": len(times),
            }
            for name, times in by_engine.items()
        }
    return results


def print_table(results: Any, ours: list[str]) -> None:
    """Median tokens a second, and how many times each peer's those of the first of ours are."""
    names = list(next(iter(results.values())))
    width = max(len(name) for name in names) + 2
    print("tokens/s, median".ljust(width) + "".join(f"{shape:>10}" for shape in results))
    for name in names:
        row = "".join(f"{results[shape][name]['tokens_per_second']:>10,.0f}" for shape in results)
        print(name.ljust(width) + row)
    for peer in (name for name in names if name not in ours):
        ratios = ""
        for of_shape in results.values():
            mine, theirs = (of_shape[name]["tokens_per_second"] for name in (ours[0], peer))
            ratios += f"{mine / theirs:>10.2f}"
        print(f"x {peer}".ljust(width) + ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE")
    parser.add_argument("--peers", type=Path, metavar="CHECKPOINT", help="compare with the peers")
    parser.add_argument("--shapes", nargs="+", default=DEFAULT_SHAPES, metavar="TEXTSxTOKENS")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each engine at a shape")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path, metavar="FILE.json", help="also draws FILE.svg")
    options = parser.parse_args()

    folders = {_bundle_name(bundle): bundle for bundle in options.bundles}
    ours = list(folders)
    if options.peers:
        graphs = ROOT / "build" / "peers" / options.peers.name
        export_peers(options.peers, graphs)
        folders |= {name: graphs if name.startswith("optimum") else options.peers for name in PEERS}
    engines = [EngineProcess(name, folder, options.threads) for name, folder in folders.items()]
    results = measure(engines, list(options.shapes), options.rounds, options.seconds)
    for engine in engines:
        engine.close()
    print_table(results, ours)
    if options.save:
        save_report(options.save, __doc__.splitlines()[0], results)
        draw_bars(results, "tokens_per_second", "tokens/s", options.save.with_suffix(".svg"))


def _bundle_name(bundle: Path) -> str:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    return f"this project {manifest['variants'][0]['precision']}"


if __name__ == "__main__":
    main()
