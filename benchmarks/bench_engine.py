"""How many tokens a second does the engine embed, beside its peers on the same checkpoint?

    uv run --extra export --group bench python benchmarks/bench_engine.py \
        --save benchmarks/results/engine-MACHINE.json

Without a bundle and a checkpoint it makes those of the benchmark in build/: EmbeddingGemma's size,
random weights. With --check FILE it fails where one of our ratios to a peer is more than 15 % below
that of an earlier run, kept in FILE: ratios of one run hardly depend on what else a machine does.

Each engine is loaded in a process of its own, and the engines take turns at every shape, so that
what else the machine does falls on all of them alike. Only one works at a time.
"""

import argparse
import json
import os
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
from benchmarks.openvino_engines import OPENVINO_PEERS  # noqa: E402
from benchmarks.ratios import OURS, fallen_ratios, ratios  # noqa: E402

OPENVINO_PYTHON = ROOT / "build" / "peers" / "openvino" / "bin" / "python"

DEFAULT_SHAPES = ("1x16", "8x32", "8x128", "4x512")
DEFAULT_PRECISIONS = ("int8", "fp32")


class EngineProcess:
    """An engine loaded in a process of its own, of the environment that it is installed in."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [*_command(name), name, str(folder), str(threads)],
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


def print_table(results: Any) -> None:
    """Median tokens a second, and how many times each peer's those of ours are."""
    names = list(next(iter(results.values())))
    pairs = list(next(iter(ratios(results).values())))
    rows = {
        name: [f"{by[name]['tokens_per_second']:,.0f}" for by in results.values()] for name in names
    }
    for pair in pairs:
        rows[" / ".join(pair)] = [f"{by[pair]:.2f}" for by in ratios(results).values()]
    width = max(map(len, rows)) + 2
    for name, cells in {"tokens/s, median": list(results), **rows}.items():
        print(name.ljust(width) + "".join(f"{cell:>10}" for cell in cells))


def prepared(folder: Path) -> tuple[Path, list[Path]]:
    """The benchmark's checkpoint and its bundles in `folder`, made where they are missing."""
    checkpoint, models = folder / "checkpoint", folder / "models"
    if not (checkpoint / "modules.json").is_file():
        run_module("tests.checkpoints", checkpoint, "--size", "full")
    for precision in DEFAULT_PRECISIONS:
        if not (models / precision / "manifest.json").is_file():
            options = ("--models-dir", models, "--name", precision, "--precision", precision)
            run_module("export", checkpoint, *options, "--no-parity")
    return checkpoint, [models / precision for precision in DEFAULT_PRECISIONS]


def converted(checkpoint: Path, folder: Path) -> Path:
    """The folder with the checkpoint as OpenVINO's, made where it is missing."""
    if not (folder / "static-int8.xml").is_file():
        module = [*_command("openvino"), "convert", checkpoint.resolve(), folder]
        subprocess.run(module, cwd=ROOT, check=True)
    return folder


def run_module(module: str, *arguments: str | Path) -> None:
    """Run a module of this project as a program, to its end."""
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundles", nargs="*", type=Path, metavar="BUNDLE")
    parser.add_argument("--peers", type=Path, metavar="CHECKPOINT", help="compare with the peers")
    parser.add_argument("--shapes", nargs="+", default=DEFAULT_SHAPES, metavar="TEXTSxTOKENS")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each engine at a shape")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--check", type=Path, metavar="FILE.json", help="fail below its ratios")
    parser.add_argument("--save", type=Path, metavar="FILE.json", help="also draws FILE.svg")
    options = parser.parse_args()

    checkpoint, bundles = options.peers, options.bundles
    if not bundles:
        checkpoint, bundles = prepared(ROOT / "build")
    folders = {bundle_name(bundle): bundle for bundle in bundles}
    if checkpoint:
        graphs = ROOT / "build" / "peers" / checkpoint.name
        export_peers(checkpoint, graphs)
        folders |= {name: graphs if name.startswith("optimum") else checkpoint for name in PEERS}
        if OPENVINO_PYTHON.is_file():
            folders |= dict.fromkeys(OPENVINO_PEERS, converted(checkpoint, graphs / "openvino"))
    engines = [EngineProcess(name, folder, options.threads) for name, folder in folders.items()]
    results = measure(engines, list(options.shapes), options.rounds, options.seconds)
    for engine in engines:
        engine.close()
    print_table(results)
    if options.save:
        save_report(options.save, __doc__.splitlines()[0], results)
        draw_bars(results, "tokens_per_second", "tokens/s", options.save.with_suffix(".svg"))
    if options.check:
        fallen = fallen_ratios(results, json.loads(options.check.read_bytes())["results"])
        print("\n".join(fallen) or f"no ratio is more than 15 % below {options.check}")
        sys.exit(1 if fallen else 0)


def _command(engine: str) -> list[str | Path]:
    if engine.startswith("openvino"):
        return [OPENVINO_PYTHON, "-m", "benchmarks.openvino_engines"]
    return [sys.executable, "-m", "benchmarks.engines"]


def bundle_name(bundle: Path) -> str:
    """What an engine over this bundle is called."""
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    return f"{OURS} {manifest['variants'][0]['precision']}"


if __name__ == "__main__":
    main()
