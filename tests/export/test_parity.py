"""The reference is run here: these need PyTorch."""

from pathlib import Path

import pytest

from export.__main__ import main as export
from export.parity import GATES
from service.embedding.manifest import Precision, read_manifest

pytestmark = pytest.mark.export


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8-block"])
def test_the_starter_passes_its_gate(tmp_path: Path, precision: Precision) -> None:
    arguments = ["starter", "--models-dir", str(tmp_path), "--precision", precision]
    assert export(arguments) == 0
    parity = read_manifest(tmp_path / "all-minilm-l6-v2").variants[0].parity
    assert parity is not None
    assert parity.reference.startswith("sentence-transformers")
    assert parity.texts > 100
    assert GATES[precision].failure(parity) is None


def test_float32_gemma_equals_the_reference(tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_checkpoint), "--models-dir", str(tmp_path), "--name", "tiny"]
    assert export([*arguments, "--precision", "fp32"]) == 0
    parity = read_manifest(tmp_path / "tiny").variants[0].parity
    assert parity is not None
    assert parity.cosine_min >= 0.99999
