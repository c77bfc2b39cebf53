import logging
import shutil
from pathlib import Path

import pytest

from service.embedding.manifest import MANIFEST_NAME
from service.errors import ModelLoadError
from tests.embedding.embedders import embedder_of
from tests.embedding.test_manifest import change

pytestmark = pytest.mark.anyio


async def test_opening_says_what_was_loaded_and_what_to_know_of_it(
    starter_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with embedder_of(starter_bundle):
            pass
    plan, loaded, notice, parity = (record.getMessage() for record in caplog.records)
    assert "measured" in plan
    assert "loaded all-minilm-l6-v2 (int8, CPUExecutionProvider)" in loaded
    assert "trying out" in notice
    assert "parity is null" in parity


async def test_what_is_set_is_taken_and_not_measured(starter_bundle: Path) -> None:
    given = {"threads": 3, "workers": 1, "max_batch_tokens": 200, "warm_up": False}
    async with embedder_of(starter_bundle, **given) as embedder:
        assert (embedder.threads, embedder.workers, embedder.limits.max_batch_tokens) == (3, 1, 200)
        await embedder.embed(["a"], prompt="")


async def test_a_bundle_without_its_files_is_refused(starter_bundle: Path, tmp_path: Path) -> None:
    shutil.copy(starter_bundle / MANIFEST_NAME, tmp_path)
    with pytest.raises(ModelLoadError, match="cannot be read"):
        async with embedder_of(tmp_path):
            pass


async def test_a_model_that_cannot_embed_is_refused(starter_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(starter_bundle, tmp_path / "bundle")
    change(bundle, max_tokens=2)
    with pytest.raises(ModelLoadError, match=r"was loaded, but cannot embed: .* at most 2"):
        async with embedder_of(bundle):
            pass
