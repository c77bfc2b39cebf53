from pathlib import Path

import pytest

from export.__main__ import main as export
from service.embedding.manifest import read_manifest
from service.embedding.onnx_model import load_model


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_model_that_cannot_be_had_says_the_three_ways_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert export(["google/embeddinggemma-300m", "--models-dir", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "https://huggingface.co/google/embeddinggemma-300m" in said
    assert "hf auth login" in said
    assert "python -m export FOLDER" in said
    assert "python -m export starter" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "offered"),
    [
        (["--precision", "bf16"], "int8, int8-block, fp32 for cpu"),
        (["--precision", "int8", "--target", "cuda"], "fp32 for cuda"),
        (["--precision", "bf16", "--target", "all"], "fp32 for cuda; int8, int8-block"),
    ],
)
def test_what_a_model_cannot_be_written_in_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], offered: str
) -> None:
    assert export(["starter", "--models-dir", str(tmp_path), *arguments]) == 1
    assert offered in capsys.readouterr().err


def test_variants_for_both_stand_in_one_bundle_those_for_a_gpu_first(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = [str(tiny_checkpoint), "--models-dir", str(tmp_path), "--name", "both"]
    assert export([*arguments, "--target", "all", "--no-parity"]) == 0
    manifest = read_manifest(tmp_path / "both")
    assert [(variant.precision, variant.execution_providers) for variant in manifest.variants] == [
        ("fp16", ("CUDAExecutionProvider",)),
        ("bf16", ("CUDAExecutionProvider",)),
        ("int8", ("CPUExecutionProvider",)),
    ]
    assert [variant.parity for variant in manifest.variants] == [None] * 3
    assert manifest.relevance is not None
    assert "not run, since there is no such execution provider here" in capsys.readouterr().out
    model = load_model(tmp_path / "both", manifest)
    assert model.variant.precision == "int8"


def test_a_missing_reference_is_said(
    capsys: pytest.CaptureFixture[str],
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("export.__main__.has_reference", lambda: False)
    assert export([str(tiny_checkpoint), "--models-dir", str(tmp_path)]) == 0
    assert "parity is not measured" in capsys.readouterr().err
