import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from export.__main__ import main as export
from export.checkpoint import STARTER
from service.embedding.manifest import Manifest, Precision, read_manifest
from service.embedding.onnx_model import OnnxModel, load_model
from service.embedding.tokenization import Tokenizer, load_tokenizer
from tests.checkpoints import make_checkpoint

FUSED_PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "int8-block")

# Those that `bundle_of` has, by checkpoint and precision.
FUSED_BUNDLES = [
    *(("tiny", precision) for precision in FUSED_PRECISIONS),
    (STARTER, "int8"),
    pytest.param(STARTER, "fp32", marks=pytest.mark.slow),
    pytest.param(STARTER, "int8-block", marks=pytest.mark.slow),
]


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle ready to embed."""

    folder: Path
    manifest: Manifest
    tokenizer: Tokenizer
    model: OnnxModel


BundleOf = Callable[[str, Precision], LoadedBundle]


def load_bundle(folder: Path) -> LoadedBundle:
    manifest = read_manifest(folder)
    model = load_model(folder, manifest)
    assert isinstance(model, OnnxModel)
    return LoadedBundle(folder, manifest, load_tokenizer(folder, manifest), model)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An EmbeddingGemma of a few layers with random weights; not to be changed."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny-gemma")


@pytest.fixture
def own_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "own-gemma"))


@pytest.fixture(scope="session")
def bundle_of(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> BundleOf:
    """The bundle of a checkpoint (`tiny` or `starter`) at a precision, built once."""
    models = tmp_path_factory.mktemp("models")
    built: dict[tuple[str, Precision], LoadedBundle] = {}

    def build(model: str, precision: Precision) -> LoadedBundle:
        if (model, precision) not in built:
            source = STARTER if model == STARTER else str(tiny_checkpoint)
            name = f"{model}-{precision}"
            arguments = [source, "--name", name, "--models-dir", str(models), "--no-parity"]
            assert export([*arguments, "--precision", precision]) == 0
            built[model, precision] = load_bundle(models / name)
        return built[model, precision]

    return build
