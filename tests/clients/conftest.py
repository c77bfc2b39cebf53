import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from service.embedding.manifest import MANIFEST_NAME, read_manifest
from tests.service_process import running_service

# Those of the model card, so that what is documented runs as it stands.
GEMMA_PROMPTS = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "Clustering": "task: clustering | query: ",
    "STS": "task: sentence similarity | query: ",
}


@pytest.fixture(scope="session")
def gemma_like_bundle(prompted_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter model under EmbeddingGemma's name, with its prompts."""
    bundle = tmp_path_factory.mktemp("models") / "embeddinggemma-300m"
    shutil.copytree(prompted_bundle, bundle)
    manifest = msgspec.structs.replace(
        read_manifest(bundle),
        name="embeddinggemma-300m",
        prompts=GEMMA_PROMPTS,
        query_prompt="query",
    )
    (bundle / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    return bundle


@pytest.fixture(scope="session")
def url(gemma_like_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the service listens that all clients talk to."""
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, "--model", str(gemma_like_bundle)) as service:
        yield service.url


@pytest.fixture(autouse=True)
def left_behind() -> Iterator[None]:
    """Connections that a library gives no way to close end with the test that opened them."""
    yield
    gc.collect()
