"""How long does an export take, and how much memory, for a checkpoint of this size?

    uv run python benchmarks/bench_export.py CHECKPOINT --save FILE.json

Parity is not counted: its time is that of the reference.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import save_report  # noqa: E402

PRECISIONS = ("int8", "int8-block", "fp32")


def measure(checkpoint: Path, precision: str) -> dict[str, float]:
    """Seconds, and the peak resident memory as a multiple of the checkpoint's weights."""
    weights = sum(path.stat().st_size for path in checkpoint.rglob("*.safetensors"))
    with tempfile.TemporaryDirectory() as models:
        command = [sys.executable, "-m", "export", str(checkpoint), "--models-dir", models]
        start = time.perf_counter()
        subprocess.run(
            [*command, "--precision", precision, "--no-parity"],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - start
    # The largest child so far: precisions are measured from the smallest to the largest.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"seconds": round(seconds, 1), "peak_of_checkpoint": round(peak / weights, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    results = {precision: measure(options.checkpoint, precision) for precision in PRECISIONS}
    for precision, figures in results.items():
        print(
            f"{precision:12}{figures['seconds']:6.1f} s   "
            f"{figures['peak_of_checkpoint']:.2f} times the checkpoint in memory"
        )
    if options.save:
        save_report(options.save, __doc__.splitlines()[0], results)


if __name__ == "__main__":
    main()
