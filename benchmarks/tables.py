"""Prints the figures that a benchmark saved as the Markdown tables of README.md.

uv run python benchmarks/tables.py benchmarks/results/*-MACHINE.json
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ratios import OURS  # noqa: E402

INT8 = f"{OURS} int8"

# With what of others the last rows of the engines compare.
OTHERS: dict[str, Callable[[str], bool]] = {
    "int8 over the best float32 peer": lambda name: name.endswith("fp32"),
    "int8 over the best that is not OpenVINO's int8": lambda name: (
        not (name.startswith("openvino") and "int8" in name)
    ),
    "int8 over the best but static int8": lambda name: "static" not in name,
    "int8 over the best": lambda name: True,
}


def table(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table; `head` names its columns, the first included."""
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def of_engines(results: Any) -> Iterator[str]:
    """What bench_engine.py saved."""
    rows = {
        name: [f"{by[name]['tokens_per_second']:,.0f}" for by in results.values()]
        for name in next(iter(results.values()))
    }
    for title, counts in OTHERS.items():
        rows[title] = []
        for by_engine in results.values():
            rates = {name: figures["tokens_per_second"] for name, figures in by_engine.items()}
            others = [r for name, r in rates.items() if not name.startswith(OURS) and counts(name)]
            rows[title].append(f"{rates[INT8] / max(others):.2f}" if others else "")
    yield table(["engine", *results], rows)


def of_servers(loads: Any) -> Iterator[str]:
    """What bench_http.py saved of each load that it put on the servers."""
    closed = [load for load in loads if " " not in load]
    if closed:
        yield _of_each_server(
            ["tokens/s (p95 in s)", *closed],
            [loads[load] for load in closed],
            lambda figures: f"{figures['tokens_per_second']:,.0f} ({figures['p95_ms'] / 1000:.3g})",
        )
    opened = [load for load in loads if load.startswith("open ")]
    if opened:
        yield _of_each_server(
            ["p50 / p95 / p99 in s", *opened],
            [loads[load] for load in opened],
            lambda figures: " / ".join(
                f"{figures[name] / 1000:.2g}" for name in ("p50_ms", "p95_ms", "p99_ms")
            ),
        )
    singles = [load for load in loads if load.startswith("interactive ")]
    if singles:
        yield _of_each_server(
            ["p50 / p99 in ms", *singles],
            [loads[load] for load in singles],
            lambda figures: f"{figures['p50_ms']:,.0f} / {figures['p99_ms']:,.0f}",
        )
    bulk = [load for load in loads if load.startswith("bulk ")]
    if bulk:
        yield _of_each_server(
            ["tokens/s", *bulk],
            [loads[load] for load in bulk],
            lambda figures: f"{figures['tokens_per_second']:,.0f}",
        )


def of_profile(results: Any) -> Iterator[str]:
    """What profile_engine.py saved."""
    kinds = next(iter(results.values()))
    rows = {kind: [f"{shares[kind]:.1%}" for shares in results.values()] for kind in kinds}
    yield table(["share of the time", *results], rows)


def _of_each_server(head: Sequence[str], parts: Sequence[Any], cell: Callable[[Any], str]) -> str:
    names = dict.fromkeys(name for by_server in parts for name in by_server)
    return table(
        head,
        {
            name: [cell(by_server[name]) if name in by_server else "" for by_server in parts]
            for name in names
        },
    )


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        results = json.loads(path.read_bytes())["results"]
        if "loads" in results:
            tables = [*of_servers(results["loads"]), *(f"- {goal}" for goal in results["goals"])]
        elif path.name.startswith("engine"):
            tables = [*of_engines(results)]
        elif path.name.startswith("profile"):
            tables = [*of_profile(results)]
        else:
            continue
        print(f"{path.name}\n", *tables, sep="\n\n", end="\n\n")


if __name__ == "__main__":
    main()
