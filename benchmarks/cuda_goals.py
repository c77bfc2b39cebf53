"""What the engine is to reach on a GPU, and what was measured of it."""

from collections.abc import Mapping
from typing import Any

from benchmarks.http_goals import Verdict
from benchmarks.ratios import OURS, ratios

TIMES_SENTENCE_TRANSFORMERS = 2.0
SINGLE, MILLISECONDS_OF_SINGLE = "1x16", 3.0
LARGE, UTILISATION_OF_LARGE = "64x256", 0.35
TEXTS_PER_SECOND_OVER_HTTP = 10_000

# Of the system that this project succeeds, on a GPU of 12 GB: texts/s by texts in a request.
PREDECESSOR = {1: 18.6, 10: 268.0, 50: 678.5}


def operations_of_token(config: Mapping[str, Any], tokens: int) -> float:
    """What the layers of a Gemma 3 multiply and add for each token of a text, each counted as one.

    Attention is counted as if every layer saw the whole text, as kernels compute it.
    """
    hidden, head = config["hidden_size"], config["head_dim"]
    query = config["num_attention_heads"] * head
    key_value = 2 * config["num_key_value_heads"] * head
    products = hidden * (2 * query + key_value) + 3 * hidden * config["intermediate_size"]
    attention = 2 * query * tokens
    return float(2 * config["num_hidden_layers"] * (products + attention))


def utilisation(
    results: Any, shape: str, config: Mapping[str, Any], operations_per_second: float
) -> dict[str, float]:
    """Which share of the rate of matrix products each engine of ours reaches at a shape."""
    tokens = int(shape.split("x")[1])
    each = operations_of_token(config, tokens) / operations_per_second
    return {
        name: figures["tokens_per_second"] * each
        for name, figures in results.get(shape, {}).items()
        if name.startswith(OURS)
    }


def verdicts(
    results: Any, utilised: Mapping[str, float], texts_per_second: float | None
) -> list[Verdict]:
    """What can be said of each goal with what was measured."""
    found = [
        Verdict(
            times >= TIMES_SENTENCE_TRANSFORMERS,
            f"{shape}: {engine} is {times:.2f} x {peer} (goal: {TIMES_SENTENCE_TRANSFORMERS})",
        )
        for shape, by_pair in ratios(results).items()
        for (engine, peer), times in by_pair.items()
    ]
    for name, figures in results.get(SINGLE, {}).items():
        if name.startswith(OURS):
            took = figures["milliseconds"]
            found.append(
                Verdict(
                    took < MILLISECONDS_OF_SINGLE,
                    f"{SINGLE}: {name} takes {took:.2f} ms (goal: under {MILLISECONDS_OF_SINGLE})",
                )
            )
    found += [
        Verdict(
            share >= UTILISATION_OF_LARGE,
            f"{LARGE}: {name} uses {share:.1%} of the matrix rate (goal: "
            f"{UTILISATION_OF_LARGE:.0%})",
        )
        for name, share in utilised.items()
    ]
    if texts_per_second is not None:
        found.append(
            Verdict(
                texts_per_second >= TEXTS_PER_SECOND_OVER_HTTP,
                f"over HTTP: {texts_per_second:,.0f} texts/s of 32 tokens (goal: "
                f"{TEXTS_PER_SECOND_OVER_HTTP:,})",
            )
        )
    return found
