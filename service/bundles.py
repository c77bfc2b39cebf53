"""Which bundle to serve where none is named, and how to come by one."""

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

from service.embedding.manifest import MANIFEST_NAME
from service.errors import ModelLoadError

logger = logging.getLogger(__name__)

MODELS = Path("models")
PREFERRED = "embeddinggemma-300m"
STARTER = "all-minilm-l6-v2"

WAYS_OUT = (
    "set MEMORY_MODEL to the folder of a bundle; or build one: "
    "python -m export (EmbeddingGemma), or python -m export starter, which `uv run` can do"
)


def find_or_build_bundle(models: Path = MODELS) -> Path:
    """The best bundle in the folder of models, or the starter model, built there first.

    Raises:
        ModelLoadError: there is none and the starter model cannot be built.
    """
    if bundle := find_bundle(models):
        return bundle
    logger.info("no bundle in %s: building the starter model, once", models.absolute())
    if importlib.util.find_spec("export") is None:
        raise ModelLoadError(f"no bundle in {models}, and nothing here to build one; {WAYS_OUT}")
    # Where PyTorch is installed the exporter would measure parity first, for a minute.
    builder = [sys.executable, "-m", "export", "starter", "--no-parity"]
    status = subprocess.run([*builder, "--models-dir", str(models)], check=False).returncode
    bundle = find_bundle(models)
    if status != 0 or bundle is None:
        raise ModelLoadError(
            f"no bundle in {models}, and building the starter model failed (see above, "
            f"status {status}); {WAYS_OUT}"
        )
    return bundle


def find_bundle(models: Path) -> Path | None:
    """EmbeddingGemma's bundle, or else any other by name, or else the starter model's."""
    bundles = [manifest.parent for manifest in models.glob(f"*/{MANIFEST_NAME}")]
    rank = {PREFERRED: 0, STARTER: 2}
    return min(bundles, key=lambda bundle: (rank.get(bundle.name, 1), bundle.name), default=None)
