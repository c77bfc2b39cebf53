"""How our engines compare with others in one run, and whether that got worse since another."""

from typing import Any

OURS = "this project"

# By how much a ratio to a peer may fall: twice as much as two runs on the same machine differ by.
TOLERANCE = 0.15


def fallen_ratios(results: Any, baseline: Any) -> list[str]:
    """What to say of each ratio of ours to a peer that fell by more than the tolerance.

    A peer or a shape of the baseline that was not measured counts as fallen.
    """
    fallen = []
    for shape, expected in ratios(baseline).items():
        found = ratios(results).get(shape, {})
        for pair, before in expected.items():
            now = found.get(pair, 0.0)
            if now < before * (1 - TOLERANCE):
                engine, peer = pair
                fallen.append(f"{shape}: {engine} is {now:.2f} x {peer}, and was {before:.2f} x")
    return fallen


def ratios(results: Any) -> dict[str, dict[tuple[str, str], float]]:
    """How many times a peer's tokens a second each engine of ours has, by shape and pair."""
    return {
        shape: {
            (engine, peer): mine["tokens_per_second"] / theirs["tokens_per_second"]
            for engine, mine in by_engine.items()
            for peer, theirs in by_engine.items()
            if engine.startswith(OURS) and not peer.startswith(OURS)
        }
        for shape, by_engine in results.items()
    }
