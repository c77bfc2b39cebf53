import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from litestar import Litestar
from litestar.di import Provide
from litestar.testing import TestClient

import service
from service.api.health import live, ready
from service.app import create_app
from service.embedding.manifest import read_manifest
from service.settings import Settings
from tests.failing import open_failing_embedder

Client = TestClient[Litestar]


def test_a_process_that_answers_is_live(client: Client) -> None:
    response = client.get("/health/live")
    assert (response.status_code, response.json()) == (200, {"live": True})


def test_a_model_that_embeds_is_ready(client: Client) -> None:
    response = client.get("/health/ready")
    assert (response.status_code, response.json()) == (200, {"ready": True})


def test_a_model_that_fails_is_not_ready_but_live(starter_bundle: Path) -> None:
    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with open_failing_embedder(starter_bundle) as app.state.embedder:
            yield

    app = Litestar(
        [live, ready],
        lifespan=[lifespan],
        dependencies={"embedder": Provide(lambda: app.state.embedder, sync_to_thread=False)},
        logging_config=None,
    )
    with TestClient(app) as client:
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] == "not_ready"
        assert "the model failed" in response.json()["detail"]
        assert client.get("/health/live").status_code == 200


def test_info_describes_the_model_and_what_runs_it(client: Client, prompted_bundle: Path) -> None:
    manifest = read_manifest(prompted_bundle)
    info = client.get("/info").json()
    assert info == {
        "model": "prompted",
        "precision": "int8",
        "execution_provider": "CPUExecutionProvider",
        "dimensions": 384,
        "supported_dimensions": [384, 256, 128],
        "max_tokens": 256,
        "prompts": manifest.prompts,
        "default_prompt": "document",
        "query_prompt": "search",
        "document_prompt": "document",
        "limits": {
            "max_tokens_per_text": 256,
            "max_batch_texts": 2048,
            "max_batch_tokens": 2048,
            "max_queued_tokens": 524_288,
        },
        "parity": None,
        "notice": None,
        "source": {
            "id": manifest.source.id,
            "revision": manifest.source.revision,
            "sha256": manifest.source.sha256,
        },
        "versions": {
            "service": service.__version__,
            "python": platform.python_version(),
            "onnxruntime": version("onnxruntime"),
            "tokenizers": version("tokenizers"),
        },
    }


def test_info_shows_the_limits_that_were_set(starter_bundle: Path) -> None:
    settings = Settings(
        model=starter_bundle, max_batch_texts=3, max_batch_tokens=100, max_queued_tokens=200
    )
    with TestClient(create_app(settings)) as client:
        info = client.get("/info").json()
        assert info["limits"] == {
            "max_tokens_per_text": 256,
            "max_batch_texts": 3,
            "max_batch_tokens": 100,
            "max_queued_tokens": 200,
        }
        assert "trying out" in info["notice"]
        response = client.post("/v1/embeddings", json={"input": ["a"] * 4})
        assert "at most 3 texts" in response.json()["error"]["message"]
