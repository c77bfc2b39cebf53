"""The scenario is what it says it is, and the starter model by itself is fit for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from service.embedding.manifest import Manifest, read_manifest
from service.embedding.onnx_model import load_model
from service.embedding.prompts import prompt_for_input_type
from service.embedding.tokenization import load_tokenizer
from tests.memory.scenario import Scenario, load_scenario


@dataclass(frozen=True)
class Similarities:
    """Of every query of the scenario to its current memories."""

    manifest: Manifest
    tokens: tuple[int, ...]
    """Of each memory, current or not."""
    questions: npt.NDArray[np.float32]  # (questions, current memories)
    off_topic: npt.NDArray[np.float32]  # (off-topic questions, current memories)


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario()


@pytest.fixture(scope="module")
def similarities(scenario: Scenario, starter_bundle: Path) -> Similarities:
    manifest = read_manifest(starter_bundle)
    tokenizer = load_tokenizer(starter_bundle, manifest)
    model = load_model(starter_bundle, manifest)
    query, document = (prompt_for_input_type(manifest, side) for side in ("query", "document"))

    def embed(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return model.run([text.ids for text in tokenizer.tokenize(texts, truncate=False)])

    memories = embed([document + memory.content for memory in scenario.current()])
    return Similarities(
        manifest,
        tuple(tokenizer.count(memory.content) for memory in scenario.memories),
        embed([query + question.query for question in scenario.questions]) @ memories.T,
        embed([query + text for text in scenario.off_topic]) @ memories.T,
    )


def test_it_has_two_hundred_memories_and_forty_questions(scenario: Scenario) -> None:
    assert len(scenario.memories) == 200
    assert len({memory.key for memory in scenario.memories}) == 200
    assert len({memory.content for memory in scenario.memories}) == 200
    assert len({question.query for question in scenario.questions}) == 40
    assert len(set(scenario.off_topic)) == 30


def test_a_memory_supersedes_one_that_stands_before_it_and_that_no_other_does(
    scenario: Scenario,
) -> None:
    open_keys: set[str] = set()
    for memory in scenario.memories:
        if memory.supersedes is not None:
            open_keys.remove(memory.supersedes)
        open_keys.add(memory.key)
    assert len(open_keys) == 184
    assert open_keys == {memory.key for memory in scenario.current()}


def test_questions_are_answered_by_one_to_three_current_memories(scenario: Scenario) -> None:
    current = {memory.key for memory in scenario.current()}
    for question in scenario.questions:
        assert 1 <= len(question.relevant) <= 3
        assert set(question.relevant) <= current


def test_the_starter_model_reads_every_memory_whole(similarities: Similarities) -> None:
    assert max(similarities.tokens) < 200


def test_the_starter_model_finds_the_answers_among_the_nearest_five(
    scenario: Scenario, similarities: Similarities
) -> None:
    keys = [memory.key for memory in scenario.current()]
    shares = []
    for question, row in zip(scenario.questions, similarities.questions, strict=True):
        nearest = {keys[index] for index in np.argsort(-row)[:5]}
        shares.append(len(nearest.intersection(question.relevant)) / len(question.relevant))
    assert np.mean(shares) >= 0.9


def test_the_starter_model_refuses_nine_of_ten_off_topic_questions(
    similarities: Similarities,
) -> None:
    relevance = similarities.manifest.relevance
    assert relevance is not None
    assert (similarities.off_topic.max(axis=1) < relevance.cutoff).mean() >= 0.9
