from benchmarks.ratios import fallen_ratios


def results(ours: float, peer: float, shape: str = "1x16") -> dict[str, object]:
    return {
        shape: {
            "this project int8": {"tokens_per_second": ours},
            "a peer": {"tokens_per_second": peer},
        }
    }


def test_a_slower_machine_is_no_regression() -> None:
    assert fallen_ratios(results(500, 250), results(2_000, 1_000)) == []


def test_a_ratio_may_fall_by_15_percent_and_no_further() -> None:
    assert fallen_ratios(results(1_710, 1_000), results(2_000, 1_000)) == []
    (message,) = fallen_ratios(results(1_690, 1_000), results(2_000, 1_000))
    assert message == "1x16: this project int8 is 1.69 x a peer, and was 2.00 x"


def test_what_was_not_measured_again_counts_as_fallen() -> None:
    assert fallen_ratios(results(9_000, 1, shape="8x32"), results(2_000, 1_000)) != []
