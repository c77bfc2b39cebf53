from pathlib import Path

import pytest

from export.__main__ import main as export


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


@pytest.mark.parametrize("arguments", [["--precision", "bf16"], ["--target", "cuda"]])
def test_what_this_version_does_not_write_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str]
) -> None:
    assert export(["starter", "--models-dir", str(tmp_path), *arguments]) == 1
    assert "fp32, int8 and int8-block" in capsys.readouterr().err


def test_a_missing_reference_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.__main__.has_reference", lambda: False)
    assert export(["starter", "--models-dir", str(tmp_path)]) == 0
    assert "parity is not measured" in capsys.readouterr().err
