"""The checkpoints on which the other tests rely, as far as it shows without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from service.embedding.manifest import sha256_of
from tests.checkpoint_tokenizer import BYTE_TOKENS, SPACE
from tests.checkpoint_weights import ROWS_AT_ONCE, FloatArray, tensor, tensor_shapes
from tests.checkpoints import (
    FULL,
    MAX_TOKENS,
    PROMPTS,
    SLIDING_WINDOW,
    TINY,
    config,
    make_checkpoint,
    parameters,
)
from tests.texts import ODD_TEXTS, SENTENCES, text_of

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "tiny_gemma.npz"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="module")
def weights(checkpoint: Path) -> dict[str, FloatArray]:
    return load_file(checkpoint / "model.safetensors")


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256_of(path) for path in files}


def test_full_has_as_many_parameters_as_the_model() -> None:
    """302.9 million in the transformer and 4.7 million in the Dense modules."""
    assert parameters(FULL) == 307_581_696


def test_full_is_made_in_small_blocks() -> None:
    block = next(tensor(FULL, 0, "embed_tokens.weight"))
    assert block.shape == (ROWS_AT_ONCE, FULL.hidden_size)


def test_config_has_the_window_that_is_published() -> None:
    """transformers halves it when it loads the file, and again at each save."""
    assert config(FULL)["sliding_window"] == SLIDING_WINDOW == 512


def test_every_sixth_layer_attends_to_everything() -> None:
    types = config(FULL)["layer_types"]
    assert [index for index, name in enumerate(types) if name == "full_attention"] == [
        5,
        11,
        17,
        23,
    ]
    assert set(config(TINY)["layer_types"]) == {"full_attention", "sliding_attention"}


def test_the_same_seed_makes_the_same_bytes(checkpoint: Path, tmp_path: Path) -> None:
    assert digests(make_checkpoint(tmp_path / "again")) == digests(checkpoint)


def test_another_seed_makes_other_weights(checkpoint: Path, tmp_path: Path) -> None:
    other = digests(make_checkpoint(tmp_path / "other", seed=1))
    assert other["model.safetensors"] != digests(checkpoint)["model.safetensors"]


def test_tensors_do_not_depend_on_each_other(weights: dict[str, FloatArray]) -> None:
    name = "layers.3.mlp.down_proj.weight"
    np.testing.assert_array_equal(np.concatenate(list(tensor(TINY, 0, name))), weights[name])


def test_the_file_holds_every_tensor(weights: dict[str, FloatArray]) -> None:
    assert {name: weight.shape for name, weight in weights.items()} == tensor_shapes(TINY)
    assert all(np.isfinite(weight).all() for weight in weights.values())


def test_the_dense_modules_fit_behind_one_another(checkpoint: Path) -> None:
    wide = load_file(checkpoint / "2_Dense" / "model.safetensors")["linear.weight"]
    narrow = load_file(checkpoint / "3_Dense" / "model.safetensors")["linear.weight"]
    assert wide.shape == (TINY.dense_size, TINY.hidden_size)
    assert narrow.shape == (TINY.hidden_size, TINY.dense_size)


def test_some_channels_are_written_far_larger_than_the_others(
    weights: dict[str, FloatArray],
) -> None:
    """Without them every quantisation would look harmless."""
    written = weights["layers.1.post_feedforward_layernorm.weight"] + 1
    assert written.max() > 100 * np.median(written)


def test_the_first_token_of_a_text_stands_out(
    weights: dict[str, FloatArray], tokenizer: Tokenizer
) -> None:
    table = weights["embed_tokens.weight"]
    first = table[tokenizer.token_to_id("<bos>")]
    same_channel = table[:, first.argmax()]
    assert first.max() > 50 * np.median(np.abs(same_channel))


def test_an_existing_folder_is_refused(checkpoint: Path) -> None:
    with pytest.raises(FileExistsError, match="delete it first"):
        make_checkpoint(checkpoint)


def test_nothing_is_left_beside_the_folder(checkpoint: Path) -> None:
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_prompts_are_as_published(checkpoint: Path) -> None:
    found = json.loads((checkpoint / "config_sentence_transformers.json").read_text("utf-8"))
    assert found["prompts"] == PROMPTS
    assert found["default_prompt_name"] is None
    assert len(PROMPTS) == 14


def test_special_tokens_have_the_ids_of_gemma(tokenizer: Tokenizer) -> None:
    tokens = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 4: "<mask>", 105: "<start_of_turn>"}
    tokens |= {108: "\n\n", 138: SPACE * 2, 168: "<table>", 238: "<0x00>", 493: "<0xFF>"}
    assert {index: tokenizer.id_to_token(index) for index in tokens} == tokens


def test_the_vocabulary_is_as_large_as_the_table(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == TINY.vocab_size


def test_a_text_stands_between_bos_and_eos(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(PROMPTS["query"]).tokens
    assert (tokens[0], tokens[-1]) == ("<bos>", "<eos>")
    assert tokenizer.encode("").tokens == ["<bos>", "<eos>"]


def test_words_of_the_prompts_are_whole_tokens(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(PROMPTS["query"], add_special_tokens=False).tokens
    assert {f"{SPACE}search", f"{SPACE}result", f"{SPACE}query"} <= set(tokens)


def test_an_unknown_character_becomes_its_bytes(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("\U0001f71a", add_special_tokens=False).tokens
    assert tokens == ["<0xF0>", "<0x9F>", "<0x9C>", "<0x9A>"]
    assert set(tokens) <= set(BYTE_TOKENS)


def test_digits_stay_apart(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("2024", add_special_tokens=False).tokens == list("2024")


@pytest.mark.parametrize("text", [text for text in SENTENCES + ODD_TEXTS if SPACE not in text])
def test_decoding_returns_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("tokens", [2, 3, 16, 257, 600])
def test_a_text_of_any_length_can_be_had(tokenizer: Tokenizer, tokens: int) -> None:
    text = text_of(tokens, lambda text: len(tokenizer.encode(text).ids))
    assert len(tokenizer.encode(text).ids) == tokens


def test_golden_embeddings_belong_to_this_checkpoint(
    checkpoint: Path, tokenizer: Tokenizer
) -> None:
    """If not: `python -m tests.make_golden` after a change that was meant."""
    tokenizer.enable_truncation(MAX_TOKENS)
    with np.load(GOLDEN) as golden:
        ids = np.split(golden["ids"], golden["tokens"].cumsum()[:-1])
        found = [tokenizer.encode(text).ids for text in golden["texts"].tolist()]
        assert [text_ids.tolist() for text_ids in ids] == found
        assert golden["weights_sha256"] == sha256_of(checkpoint / "model.safetensors")


@pytest.mark.parametrize("command", [["tests/checkpoints.py"], ["-m", "tests.checkpoints"]])
def test_it_is_a_command_as_a_file_and_as_a_module(
    checkpoint: Path, tmp_path: Path, command: list[str]
) -> None:
    folder = tmp_path / "new" / "gemma"
    run = [sys.executable, *command, str(folder), "--size", "tiny"]
    subprocess.run(run, cwd=ROOT, check=True, capture_output=True)
    assert digests(folder) == digests(checkpoint)


def test_it_imports_no_pytorch() -> None:
    code = (
        "import sys, tests.checkpoints; sys.exit(bool({'torch', 'transformers'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
