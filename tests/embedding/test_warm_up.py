import logging
from pathlib import Path

import numpy as np
import pytest

from service.embedding.batching import Cost
from service.embedding.cores import usable_cores
from service.embedding.manifest import read_manifest
from service.embedding.onnx_model import LENGTH_BORDER, OnnxModel, load_model
from service.embedding.tokenization import TokenIds, load_tokenizer
from service.embedding.warm_up import (
    FEWEST_BATCH_TOKENS,
    MOST_BATCH_TOKENS,
    SHAPES,
    Measurements,
    Timing,
    choose,
    fit,
    measure,
    plan_for,
)
from service.errors import InferenceError

TOKENS = (16, 64, 256)


def timings(*, batch: float, token: float, tokens: tuple[int, ...] = TOKENS) -> tuple[Timing, ...]:
    return tuple(Timing(n, batch + token * n) for n in tokens)


ONE_CORE = timings(batch=0.006, token=0.0004)
ALL_CORES = timings(batch=0.005, token=0.0002)


@pytest.fixture(scope="module")
def model(starter_bundle: Path) -> OnnxModel:
    manifest = read_manifest(starter_bundle)
    loaded = load_model(starter_bundle, manifest, threads=2, one_core=True)
    assert isinstance(loaded, OnnxModel)
    return loaded


@pytest.fixture(scope="module")
def text(starter_bundle: Path) -> TokenIds:
    tokenizer = load_tokenizer(starter_bundle, read_manifest(starter_bundle))
    return tokenizer.tokenize(["some text"], truncate=False)[0].ids


def test_the_cost_is_found_that_gives_the_timings() -> None:
    cost = fit(timings(batch=0.005, token=0.0002))
    assert (cost.batch, cost.token) == pytest.approx((0.005, 0.0002))


def test_one_timing_is_all_for_its_tokens() -> None:
    assert fit([Timing(20, 0.01)]) == Cost(batch=0.0, token=0.0005)


def test_timings_that_contradict_each_other_still_cost_something() -> None:
    faster_when_larger = fit([Timing(16, 0.02), Timing(64, 0.01)])
    more_than_in_proportion = fit([Timing(16, 0.01), Timing(64, 0.1)])
    for cost in (faster_when_larger, more_than_in_proportion):
        assert cost.batch >= 0
        assert cost.token > 0


def test_a_batch_on_each_core_is_chosen_unless_all_together_are_clearly_faster() -> None:
    little_faster = Measurements(timings(batch=0.005, token=0.00019), ONE_CORE)
    clearly_faster = Measurements(timings(batch=0.005, token=0.00015), ONE_CORE)
    assert choose(little_faster, cores=2).workers == 2
    assert choose(clearly_faster, cores=2).workers == 1


def test_the_largest_batch_that_both_computed_decides() -> None:
    scales_late = (Timing(16, 0.02), Timing(64, 0.03), Timing(256, 0.03))
    assert choose(Measurements(scales_late, ONE_CORE), cores=2).workers == 1
    assert choose(Measurements(scales_late, ONE_CORE[:2]), cores=2).workers == 2


def test_a_batch_is_so_large_that_little_of_it_is_fixed() -> None:
    plan = choose(Measurements(ALL_CORES, ONE_CORE), cores=2)
    fixed_share = plan.one_core.batch / plan.one_core.of(plan.max_batch_tokens)
    smaller = plan.one_core.batch / plan.one_core.of(plan.max_batch_tokens - 64)
    assert fixed_share <= 0.05 < smaller


@pytest.mark.parametrize(
    ("batch", "expected"), [(1e-6, FEWEST_BATCH_TOKENS), (1.0, MOST_BATCH_TOKENS)]
)
def test_a_batch_is_neither_tiny_nor_huge(batch: float, expected: int) -> None:
    measured = timings(batch=batch, token=0.0004)
    assert choose(Measurements(measured, measured), cores=2).max_batch_tokens == expected


def test_what_is_given_is_taken() -> None:
    plan = choose(Measurements(ALL_CORES, ONE_CORE), cores=2, workers=5, max_batch_tokens=77)
    assert (plan.workers, plan.max_batch_tokens) == (5, 77)


def test_where_one_core_was_not_tried_there_is_one_worker_on_all() -> None:
    plan = choose(Measurements(ALL_CORES, ()), cores=2)
    assert plan.workers == 1
    assert plan.one_core == plan.all_cores


def test_all_shapes_are_tried_where_there_is_time(model: OnnxModel, text: TokenIds) -> None:
    measured = measure(model, text, on_one_core=True, seconds=60)
    expected = [texts * length for texts, length in SHAPES]
    assert [timing.tokens for timing in measured.all_cores] == expected
    assert [timing.tokens for timing in measured.one_core] == expected
    assert all(timing.seconds > 0 for timing in measured.all_cores + measured.one_core)


def test_without_time_only_the_smallest_batch_is_tried(model: OnnxModel, text: TokenIds) -> None:
    measured = measure(model, text, on_one_core=True, seconds=0)
    assert [timing.tokens for timing in measured.all_cores] == [16]
    assert [timing.tokens for timing in measured.one_core] == [16]
    assert choose(measured, cores=2).workers in (1, 2)


def test_a_real_model_gets_a_plan_within_bounds(
    model: OnnxModel, text: TokenIds, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        plan = plan_for(model, text)
    assert plan.workers in (1, 2)
    assert FEWEST_BATCH_TOKENS <= plan.max_batch_tokens <= MOST_BATCH_TOKENS
    assert plan.borders == (LENGTH_BORDER,)
    (said,) = caplog.messages
    assert f"{plan.workers} workers on 2 threads" in said
    assert "tokens/s on all cores together" in said
    assert "on each for itself" in said


def test_one_worker_is_measured_on_all_cores_only(
    model: OnnxModel, text: TokenIds, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        plan = plan_for(model, text, workers=1)
    assert plan.workers == 1
    assert plan.one_core == plan.all_cores
    assert "on each for itself" not in caplog.text


def test_a_single_thread_is_one_worker(starter_bundle: Path, text: TokenIds) -> None:
    single = load_model(starter_bundle, read_manifest(starter_bundle), threads=1, one_core=True)
    assert plan_for(single, text).workers == 1


def test_without_measuring_constants_are_taken(model: OnnxModel, text: TokenIds) -> None:
    plan = plan_for(model, text, measured=False)
    assert (plan.workers, plan.max_batch_tokens) == (2, 256)
    assert plan.all_cores.of(256) < plan.one_core.of(256)
    given = plan_for(model, text, workers=1, max_batch_tokens=99, measured=False)
    assert (given.workers, given.max_batch_tokens) == (1, 99)


def test_a_model_that_fails_is_not_measured(model: OnnxModel) -> None:
    with pytest.raises(InferenceError):
        plan_for(model, np.array([10**6]))


def test_the_cores_of_this_machine_are_used(starter_bundle: Path, text: TokenIds) -> None:
    model = load_model(starter_bundle, read_manifest(starter_bundle), one_core=True)
    assert plan_for(model, text).workers in (1, usable_cores())
