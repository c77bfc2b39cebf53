"""How near does the int8 engine come to the rate of its matrix products alone?

    uv run --group bench python benchmarks/bench_floor.py BUNDLE --save FILE.json

Both take turns over the same weights, on as many cores: what is missing to 1.0 is everything else
that a model computes, attention, norms and activations among it.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench_engine import (  # noqa: E402
    DEFAULT_SHAPES,
    EngineProcess,
    bundle_name,
    measure,
    print_table,
)
from benchmarks.engines import PRODUCTS  # noqa: E402
from benchmarks.machine import save_report  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="with an int8 variant")
    parser.add_argument("--shapes", nargs="+", default=DEFAULT_SHAPES, metavar="TEXTSxTOKENS")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each at a shape")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    options = parser.parse_args()

    names = (bundle_name(options.bundle), PRODUCTS)
    engines = [EngineProcess(name, options.bundle, options.threads) for name in names]
    results = measure(engines, list(options.shapes), options.rounds, options.seconds)
    for engine in engines:
        engine.close()
    print_table(results)
    if options.save:
        save_report(options.save, __doc__.splitlines()[0], results)


if __name__ == "__main__":
    main()
