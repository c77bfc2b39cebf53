import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from export.checkpoint import STARTER, open_checkpoint
from export.errors import CheckpointError
from export.recipe import recipe_named
from service.embedding.manifest import sha256_of


def change_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_prompts_come_from_the_checkpoint(tiny_checkpoint: Path) -> None:
    prompts = open_checkpoint(str(tiny_checkpoint)).prompts
    assert prompts["query"] == "task: search result | query: "
    assert prompts["document"] == "title: none | text: "


def test_the_limit_is_the_smaller_of_what_is_stated_and_the_positions(
    own_checkpoint: Path,
) -> None:
    assert open_checkpoint(str(own_checkpoint)).max_tokens == 2048
    change_json(own_checkpoint / "sentence_bert_config.json", max_seq_length=100_000)
    assert open_checkpoint(str(own_checkpoint)).max_tokens == 2048
    change_json(own_checkpoint / "sentence_bert_config.json", max_seq_length=300)
    assert open_checkpoint(str(own_checkpoint)).max_tokens == 300


def test_the_limit_is_read_where_newer_releases_write_it(own_checkpoint: Path) -> None:
    (own_checkpoint / "sentence_bert_config.json").write_text('{"transformer_task": "x"}')
    change_json(own_checkpoint / "tokenizer_config.json", model_max_length=444)
    assert open_checkpoint(str(own_checkpoint)).max_tokens == 444


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"word_embedding_dimension": 64, "pooling_mode_cls_token": True}, "cls"),
        ({"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}, "mean"),
        ({"embedding_dimension": 64, "pooling_mode": "lasttoken"}, "lasttoken"),
    ],
)
def test_pooling_is_read_as_old_and_new_releases_write_it(
    own_checkpoint: Path, config: dict[str, Any], mode: str
) -> None:
    (own_checkpoint / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(str(own_checkpoint)).pooling.mode == mode


def test_pooling_that_leaves_the_prompt_out_is_refused(own_checkpoint: Path) -> None:
    change_json(own_checkpoint / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(CheckpointError, match="prompts that are pooled"):
        open_checkpoint(str(own_checkpoint))


def test_weights_are_found_under_the_prefix_of_a_larger_model(own_checkpoint: Path) -> None:
    path = own_checkpoint / "model.safetensors"
    tensors = load_file(path)
    save_file({"model." + name: tensor for name, tensor in tensors.items()}, path)
    weights = open_checkpoint(str(own_checkpoint)).weights
    np.testing.assert_array_equal(weights["norm.weight"], tensors["norm.weight"])


def test_bfloat16_weights_are_read_exactly(own_checkpoint: Path) -> None:
    path = own_checkpoint / "model.safetensors"
    half = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in load_file(path).items()}
    save_file(half, path)
    found = open_checkpoint(str(own_checkpoint)).weights["norm.weight"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, half["norm.weight"].astype(np.float32))


def test_the_digest_is_that_of_all_weight_files(own_checkpoint: Path) -> None:
    before = open_checkpoint(str(own_checkpoint)).weights.sha256()
    dense = own_checkpoint / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": load_file(dense)["linear.weight"] * 2}, dense)
    assert open_checkpoint(str(own_checkpoint)).weights.sha256() != before


def test_published_weights_are_known_in_a_folder_of_any_name(tiny_checkpoint: Path) -> None:
    """A recipe's digest is that of model.safetensors, whatever Dense modules lie beside it."""
    digest = sha256_of(tiny_checkpoint / "model.safetensors")
    recipe = msgspec.structs.replace(recipe_named("embeddinggemma-300m"), weights_sha256=digest)
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    assert replace(checkpoint, recipe=recipe).is_published
    assert not replace(checkpoint, recipe=recipe_named("embeddinggemma-300m")).is_published


def test_the_starter_is_the_published_model() -> None:
    starter = open_checkpoint(STARTER)
    assert starter.id == "sentence-transformers/all-MiniLM-L6-v2"
    assert starter.max_tokens == 256
    assert starter.is_published


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "expected config.json"),
        ("modules.json", "expected modules.json"),
        ("tokenizer.json", "expected tokenizer.json"),
        ("model.safetensors", "expected model.safetensors"),
        ("2_Dense/config.json", "expected config.json"),
    ],
)
def test_a_missing_file_is_named(own_checkpoint: Path, missing: str, message: str) -> None:
    (own_checkpoint / missing).unlink()
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(own_checkpoint))


def test_a_source_that_is_nothing_is_refused() -> None:
    with pytest.raises(CheckpointError, match="neither a folder, nor a hub id"):
        open_checkpoint("no-such-thing")
