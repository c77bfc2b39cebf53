"""Whether the figures of bench_http.py reach what this project's service is to reach."""

from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.ratios import OURS

Results = dict[str, dict[str, dict[str, Any]]]  # by part of a load, then by server

ENGINE = "engine of "

# By load: how many times the throughput of the best server of others the first one is to have.
TIMES_THE_BEST = {"single": 1.5, "mixed": 2.5, "batches": 2.0}

MILLISECONDS_OVER_THE_ENGINE = 1.0
SHARE_OF_THE_ENGINE = 0.95
TIMES_UNLOADED = 3.0
SHARE_OF_BULK_ALONE = 0.85


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, and what was measured."""

    reached: bool
    found: str

    def __str__(self) -> str:
        return f"{'reached' if self.reached else 'MISSED '}  {self.found}"


def verdicts(results: Results, batch_tokens: int) -> list[Verdict]:
    """What can be said of the first server, and of this project's fp32, with what was measured.

    `batch_tokens` are those that its workers compute at the same time, each in a batch.
    """
    first = next(iter(next(iter(results.values()))))
    return [
        *_beside_the_engine(results, first),
        *_beside_others(results, first),
        *_at_fp32(results),
        *_interactive_beside_bulk(results, first, batch_tokens),
    ]


def saturation(results: Results) -> dict[str, float]:
    """The most tokens a second that each server embedded of those that arrived at random."""
    most: dict[str, float] = {}
    for part, by_server in results.items():
        if part.startswith("open "):
            for name, figures in by_server.items():
                most[name] = max(most.get(name, 0.0), figures["tokens_per_second"])
    return most


def _beside_the_engine(results: Results, first: str) -> list[Verdict]:
    """Turn by turn, since what else a machine does changes from one to the next."""
    found = []
    engine = ENGINE + first
    if engine in results.get("single", {}):
        ours, its = (results["single"][name]["turns"]["p50_ms"] for name in (first, engine))
        over = median(one - other for one, other in zip(ours, its, strict=True))
        found.append(
            Verdict(
                over <= MILLISECONDS_OVER_THE_ENGINE,
                f"single: p50 {over:.2f} ms over the engine's of {median(its):.2f}"
                f" (goal: at most {MILLISECONDS_OVER_THE_ENGINE})",
            )
        )
    if engine in results.get("batches", {}):
        ours, its = (
            results["batches"][name]["turns"]["texts_per_second"] for name in (first, engine)
        )
        share = median(one / other for one, other in zip(ours, its, strict=True))
        found.append(
            Verdict(
                share >= SHARE_OF_THE_ENGINE,
                f"batches: {share:.1%} of the engine's texts/s (goal: {SHARE_OF_THE_ENGINE:.0%})",
            )
        )
    return found


def _beside_others(results: Results, first: str) -> list[Verdict]:
    found = []
    for load, goal in TIMES_THE_BEST.items():
        others = _others(results.get(load, {}))
        if not others:
            continue
        best = max(others, key=lambda name: others[name]["tokens_per_second"])
        figures = results[load][first]
        times = figures["tokens_per_second"] / others[best]["tokens_per_second"]
        least_p95 = min(other["p95_ms"] for other in others.values())
        found.append(
            Verdict(
                times >= goal and figures["p95_ms"] <= least_p95,
                f"{load}: {times:.2f} x {best} (goal: {goal}), "
                f"p95 {figures['p95_ms']:.0f} ms, of others at least {least_p95:.0f}",
            )
        )
    return found


def _at_fp32(results: Results) -> list[Verdict]:
    """Level with what others have at the same precision."""
    found = []
    ours = f"{OURS} fp32"
    for load in TIMES_THE_BEST:
        by_server = results.get(load, {})
        others = {n: f for n, f in _others(by_server).items() if n.endswith("fp32")}
        if ours in by_server and others:
            best = max(others, key=lambda name: others[name]["tokens_per_second"])
            times = by_server[ours]["tokens_per_second"] / others[best]["tokens_per_second"]
            found.append(Verdict(times >= 1, f"{load}: {ours} is {times:.2f} x {best} (goal: 1)"))
    return found


def _interactive_beside_bulk(results: Results, first: str, batch_tokens: int) -> list[Verdict]:
    if "bulk beside interactive" not in results:
        return []
    alone, beside = (results[f"interactive {how}"][first] for how in ("alone", "beside bulk"))
    bulk_alone, bulk_beside = (
        results[f"bulk {how}"][first]["tokens_per_second"]
        for how in ("alone", "beside interactive")
    )
    batch = 1000 * batch_tokens / bulk_alone
    allowed = TIMES_UNLOADED * alone["p50_ms"] + batch
    share = bulk_beside / bulk_alone
    return [
        Verdict(
            beside["p99_ms"] <= allowed,
            f"interactive beside bulk: p99 {beside['p99_ms']:.0f} ms (goal: at most {allowed:.0f},"
            f" {TIMES_UNLOADED:.0f} x {alone['p50_ms']:.1f} alone and a batch of {batch:.0f})",
        ),
        Verdict(
            share >= SHARE_OF_BULK_ALONE,
            f"bulk beside interactive: {share:.1%} of its tokens/s alone "
            f"(goal: {SHARE_OF_BULK_ALONE:.0%})",
        ),
    ]


def _others(by_server: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: figures
        for name, figures in by_server.items()
        if not name.startswith((OURS, ENGINE)) and figures["answers"]
    }
