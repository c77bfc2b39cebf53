from typing import Any

import pytest

from benchmarks.http_goals import Results, verdicts

OURS, ENGINE, PEER = "this project int8", "engine of this project int8", "a peer bf16"


def figures(
    tokens_per_second: float = 0, *, p50: float = 0, p95: float = 0, p99: float = 0
) -> dict[str, Any]:
    texts_per_second = tokens_per_second / 100
    return {
        "tokens_per_second": tokens_per_second,
        "texts_per_second": texts_per_second,
        "turns": {"p50_ms": [p50], "texts_per_second": [texts_per_second]},
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "answers": 100,
    }


def reached(results: Results) -> list[bool]:
    return [verdict.reached for verdict in verdicts(results, batch_tokens=500)]


@pytest.mark.parametrize(("p50", "expected"), [(10.9, True), (11.1, False)])
def test_a_text_alone_may_take_a_millisecond_more_than_in_the_engine(
    p50: float, expected: bool
) -> None:
    assert reached({"single": {OURS: figures(p50=p50), ENGINE: figures(p50=10)}}) == [expected]


def test_what_the_machine_does_from_turn_to_turn_does_not_count() -> None:
    ours, engine = figures(), figures()
    ours["turns"]["p50_ms"], engine["turns"]["p50_ms"] = [20.5, 10.5, 20.5], [20, 10, 10]
    ours["turns"]["texts_per_second"], engine["turns"]["texts_per_second"] = [9, 5, 5], [9, 5, 9]
    servers = {OURS: ours, ENGINE: engine}
    assert reached({"single": servers, "batches": servers}) == [True, True]


@pytest.mark.parametrize(("rate", "expected"), [(960, True), (940, False)])
def test_batches_reach_95_percent_of_the_engine(rate: float, expected: bool) -> None:
    assert reached({"batches": {OURS: figures(rate), ENGINE: figures(1_000)}}) == [expected]


@pytest.mark.parametrize(
    ("rate", "p95", "expected"), [(2_600, 9, True), (2_400, 9, False), (2_600, 11, False)]
)
def test_mixed_lengths_need_both_more_throughput_and_no_higher_p95_than_the_best_other(
    rate: float, p95: float, expected: bool
) -> None:
    peers = {PEER: figures(1_000, p95=10), "another fp32": figures(500, p95=20)}
    assert reached({"mixed": {OURS: figures(rate, p95=p95), **peers}}) == [expected]


@pytest.mark.parametrize(
    ("p99", "rate", "expected"),
    [(159, 860, [True, True]), (161, 860, [False, True]), (159, 840, [True, False])],
)
def test_singles_wait_for_at_most_a_batch_of_a_bulk_request_which_loses_little(
    p99: float, rate: float, expected: list[bool]
) -> None:
    parts = {
        "interactive alone": figures(p50=20),
        "bulk alone": figures(5_000),
        "interactive beside bulk": figures(p99=p99),
        "bulk beside interactive": figures(rate * 5),
    }
    assert reached({part: {OURS: found} for part, found in parts.items()}) == expected
