from itertools import pairwise

import numpy as np
import pytest

from export.relevance import REFUSED, measure_relevance, read_pairs, relevance_of
from service.embedding.manifest import Precision
from tests.export.conftest import BundleOf
from tests.memory.scenario import load_scenario


def test_no_query_and_no_memory_is_there_twice() -> None:
    pairs = read_pairs()
    assert len(pairs) >= 150
    assert len({pair.query for pair in pairs}) == len(pairs)
    assert len({pair.memory for pair in pairs}) == len(pairs)


def test_the_pairs_of_a_subject_stand_together() -> None:
    """So that a subject that is used for two things by mistake is noticed."""
    subjects = [pair.subject for pair in read_pairs()]
    begun = [after for before, after in pairwise(["", *subjects]) if after != before]
    assert len(begun) == len(set(begun))


def test_the_pairs_share_nothing_with_the_scenario() -> None:
    scenario = load_scenario()
    calibrating = {text for pair in read_pairs() for text in (pair.query, pair.memory)}
    questions = {question.query for question in scenario.questions}
    contents = {memory.content for memory in scenario.memories}
    assert not calibrating & (questions | contents | set(scenario.off_topic))


def test_the_cutoff_refuses_the_best_of_the_other_subjects_nine_times_in_ten() -> None:
    """Ten queries, each nearest to its own memory; the next is 0.0, 0.01 ... 0.09 near."""
    similarities = np.full((10, 10), -1, np.float32)
    for index in range(10):
        similarities[index, (index + 1) % 10] = index / 100
        similarities[index, index] = 0.5
    found = relevance_of(similarities, [f"subject {index}" for index in range(10)])
    assert found.cutoff == pytest.approx(0.085)
    assert found.pairs == 10
    assert found.relevant_kept == 1
    assert found.irrelevant_refused == REFUSED


def test_a_memory_of_the_same_subject_counts_neither_way() -> None:
    similarities = np.array([[0.6, 0.9, 0.1], [0.9, 0.6, 0.1], [0.1, 0.1, 0.6]], np.float32)
    found = relevance_of(similarities, ["bees", "bees", "boat"])
    assert found.cutoff < 0.6


@pytest.mark.parametrize("similarity", [1 + 1e-6, -1 - 1e-6])
def test_a_cutoff_is_a_cosine_whatever_rounding_makes_of_the_similarities(
    similarity: float,
) -> None:
    found = relevance_of(np.full((3, 3), similarity, np.float32), ["a", "b", "c"])
    assert abs(found.cutoff) == 1


@pytest.mark.parametrize("precision", ["int8", pytest.param("fp32", marks=pytest.mark.slow)])
def test_the_starter_keeps_most_answers(bundle_of: BundleOf, precision: Precision) -> None:
    bundle = bundle_of("starter", precision)
    found = measure_relevance(bundle.manifest, bundle.model, bundle.tokenizer)
    assert found == bundle.manifest.relevance
    assert found.irrelevant_refused >= REFUSED
    assert found.relevant_kept >= 0.85


def test_one_cutoff_is_good_for_every_precision(bundle_of: BundleOf) -> None:
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    fp32, int8 = (bundle_of("starter", precision).manifest.relevance for precision in precisions)
    assert fp32 is not None
    assert int8 is not None
    assert int8.cutoff == pytest.approx(fp32.cutoff, abs=0.02)


def test_random_weights_have_a_cutoff_too(bundle_of: BundleOf) -> None:
    found = bundle_of("tiny", "fp32").manifest.relevance
    assert found is not None
    assert -1 <= found.cutoff <= 1
