"""Draws the figures that people compare."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "benchmarks"  # the same figures give the same file

from matplotlib import pyplot as plt  # noqa: E402 - the output format comes first


def draw_bars(
    results: Mapping[str, Mapping[str, Mapping[str, float]]], figure: str, unit: str, path: Path
) -> None:
    """One group of bars for each shape, one bar for each engine; an SVG file."""
    shapes = list(results)
    engines = list(results[shapes[0]])
    drawing, axes = plt.subplots(figsize=(9, 4))
    width = 0.8 / len(engines)
    for place, engine in enumerate(engines):
        heights = [results[shape][engine][figure] for shape in shapes]
        offsets = [index + (place - (len(engines) - 1) / 2) * width for index in range(len(shapes))]
        axes.bar(offsets, heights, width, label=engine)
    axes.set_xticks(range(len(shapes)), [f"{shape} tokens" for shape in shapes])
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None})


def draw_loads(results: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Throughput where clients wait for their answers, p95 where texts arrive; an SVG file."""
    drawing, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), width_ratios=(3, 2))
    closed = [part for part in results if " " not in part]
    names = list(dict.fromkeys(name for part in closed for name in results[part]))
    for place, name in enumerate(names):
        color = f"C{place}"
        offset = (place - (len(names) - 1) / 2) * 0.8 / len(names)
        heights = [results[part].get(name, {}).get("tokens_per_second", 0) for part in closed]
        places = [index + offset for index in range(len(closed))]
        left.bar(places, heights, 0.8 / len(names), label=name, color=color)
        opened = {
            part.removeprefix("open "): by_server[name]["p95_ms"]
            for part, by_server in results.items()
            if part.startswith("open ") and name in by_server
        }
        right.semilogy(list(opened), list(opened.values()), marker="o", color=color)
    left.set_xticks(range(len(closed)), closed)
    left.set_ylabel("tokens/s")
    if closed:
        left.legend(frameon=False, fontsize="small")
    right.set_xlabel("texts that arrive, as a share of what the first server embeds")
    right.set_ylabel("p95 ms")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None})


def draw_lines(
    results: Mapping[str, Mapping[float, float]], x_label: str, y_label: str, path: Path
) -> None:
    """One line for each name, both axes logarithmic; an SVG file."""
    drawing, axes = plt.subplots(figsize=(9, 4))
    for name, points in results.items():
        dashes = "--" if "1 %" in name else "-"
        axes.loglog(list(points), list(points.values()), dashes, marker="o", label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None})
