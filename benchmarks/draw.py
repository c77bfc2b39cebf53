"""Draws the figures that people compare."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw_bars(
    results: Mapping[str, Mapping[str, Mapping[str, float]]], figure: str, unit: str, path: Path
) -> None:
    """One group of bars for each load, one bar for each engine that has it; an SVG file."""
    loads = list(results)
    engines = list(dict.fromkeys(engine for load in loads for engine in results[load]))
    drawing, axes = _drawing(figsize=(11, 4))
    width = 0.8 / len(engines)
    for place, engine in enumerate(engines):
        heights = [results[load].get(engine, {}).get(figure, 0) for load in loads]
        offsets = [index + (place - (len(engines) - 1) / 2) * width for index in range(len(loads))]
        axes.bar(offsets, heights, width, label=engine, color=f"C{place}")
    axes.set_xticks(range(len(loads)), loads)
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None})


def draw_lines(
    results: Mapping[str, Mapping[float, float]], x_label: str, y_label: str, path: Path
) -> None:
    """One line for each name, both axes logarithmic; an SVG file."""
    drawing, axes = _drawing(figsize=(9, 4))
    for name, points in results.items():
        dashes = "--" if "1 %" in name else "-"
        axes.loglog(list(points), list(points.values()), dashes, marker="o", label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None})


def draw_series(
    results: Mapping[str, Mapping[float, float]], x_label: str, y_label: str, path: Path
) -> None:
    """One line for each name, both axes linear and from zero on; an SVG file."""
    drawing, axes = _drawing(figsize=(9, 3))
    for name, points in results.items():
        axes.plot(list(points), list(points.values()), label=name)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None})


def _drawing(figsize: tuple[float, float]) -> tuple[Any, Any]:
    """An empty figure; matplotlib is only needed by those who draw."""
    import matplotlib
    from cycler import cycler

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "benchmarks"  # the same figures give the same file
    colors = matplotlib.color_sequences["tab20"]  # more than there are engines
    matplotlib.rcParams["axes.prop_cycle"] = cycler(color=colors)

    from matplotlib import pyplot

    drawing, axes = pyplot.subplots(figsize=figsize)
    return drawing, axes
