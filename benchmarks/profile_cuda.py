"""Which kernels does the time of a batch on a GPU go into?

    uv run --no-sync python benchmarks/profile_cuda.py BUNDLE --save FILE.json

PyTorch's profiler sees the kernels of the whole process, those of ONNX Runtime among them.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.machine import save_report  # noqa: E402
from service.embedding.manifest import read_manifest  # noqa: E402
from service.embedding.onnx_model import Model, load_model  # noqa: E402

SHAPES = ("1x16", "64x256", "8x2048")
BATCHES = 3
SHOWN = 12


def profile(model: Model, texts: int, tokens: int) -> dict[str, dict[str, float]]:
    """Milliseconds and launches of each kernel in one batch, the longest first."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    batch = list(np.random.default_rng(0).integers(300, 2_000, (texts, tokens)))
    model.run(batch)
    with profiler(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(BATCHES):
            model.run(batch)
    found: dict[str, dict[str, float]] = defaultdict(lambda: {"milliseconds": 0.0, "launches": 0.0})
    for event in profiled.events():
        if event.device_type == DeviceType.CUDA:
            kernel = found[event.name]
            kernel["milliseconds"] += event.time_range.elapsed_us() / 1000 / BATCHES
            kernel["launches"] += 1 / BATCHES
    return dict(sorted(found.items(), key=lambda entry: -entry[1]["milliseconds"]))


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    options = _parser().parse_args(arguments)
    model = load_model(options.bundle, read_manifest(options.bundle))
    profiles = {}
    for shape in options.shapes:
        texts, tokens = map(int, shape.split("x"))
        kernels = profiles[shape] = profile(model, texts, tokens)
        total = sum(kernel["milliseconds"] for kernel in kernels.values())
        print(f"{shape}, {model.variant.precision}: {total:.2f} ms on the GPU")
        for name, kernel in list(kernels.items())[:SHOWN]:
            print(f"{kernel['milliseconds']:9.3f} ms {kernel['launches']:5.0f} x  {name[:100]}")
    if options.save:
        save_report(options.save, __doc__.splitlines()[0], profiles)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="with a variant for CUDA")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="TEXTSxTOKENS")
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    return parser


if __name__ == "__main__":
    main()
