from pathlib import Path

import msgspec
import pytest

from service.embedding.manifest import Manifest, read_manifest
from service.embedding.prompts import (
    default_prompt,
    prompt_for_input_type,
    prompt_for_name,
    prompt_for_task,
    unasked_prompts,
)
from service.embedding.tokenization import Reading
from service.errors import UnknownPrompt


@pytest.fixture
def prompted(prompted_bundle: Path) -> Manifest:
    return read_manifest(prompted_bundle)


@pytest.fixture
def unprompted(starter_bundle: Path) -> Manifest:
    return read_manifest(starter_bundle)


def test_an_input_type_takes_the_prompt_of_its_side(prompted: Manifest) -> None:
    assert prompt_for_input_type(prompted, "query") == "find: "
    assert prompt_for_input_type(prompted, "document") == "text: "


def test_a_name_takes_the_prompt_of_that_name(prompted: Manifest) -> None:
    assert prompt_for_name(prompted, "clustering") == "group: "


def test_a_task_takes_the_prompt_of_its_name_in_any_capitals(prompted: Manifest) -> None:
    assert prompt_for_task(prompted, "clustering") == "group: "
    prompts = prompted.prompts | {"STS": "same: ", "Classification": "class: "}
    gemma = msgspec.structs.replace(prompted, prompts=prompts)
    assert prompt_for_task(gemma, "similarity") == "same: "
    assert prompt_for_task(gemma, "classification") == "class: "


def test_a_task_without_a_prompt_takes_the_default(prompted: Manifest) -> None:
    assert prompt_for_task(prompted, "classification") == "text: "
    assert prompt_for_task(prompted, "similarity") == "text: "


def test_without_a_choice_the_default_of_the_manifest_is_taken(prompted: Manifest) -> None:
    assert default_prompt(prompted) == "text: "


def test_texts_that_bring_a_prompt_are_read_behind_that(prompted: Manifest) -> None:
    reading = Reading(*unasked_prompts(prompted))
    assert reading.split("find: red planet") == ("find: ", "red planet")
    assert reading.split("Find: red planet") == ("text: ", "Find: red planet")


def test_an_unknown_name_is_refused_with_the_known_ones(prompted: Manifest) -> None:
    with pytest.raises(UnknownPrompt, match=r"prompt_name='query' .* \(search, document, clust"):
        prompt_for_name(prompted, "query")


def test_a_model_without_prompts_reads_the_text_alone(unprompted: Manifest) -> None:
    assert prompt_for_input_type(unprompted, "query") == default_prompt(unprompted) == ""
    assert unasked_prompts(unprompted) == ("", ())


def test_a_model_without_prompts_knows_no_name(unprompted: Manifest) -> None:
    with pytest.raises(UnknownPrompt, match="this model has no prompts"):
        prompt_for_name(unprompted, "query")
