import platform
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec
from litestar import Litestar
from litestar.di import Provide
from litestar.testing import TestClient

import service
from service.api.health import healthy, live, ready
from service.app import create_app
from service.embedding.cores import usable_cores
from service.embedding.manifest import read_manifest
from service.memory.memories import Memories, embedding_model_of
from service.memory.sqlite_store import open_sqlite_store
from service.memory.store import EmbeddingModel
from service.settings import Settings
from tests.failing import open_failing_embedder

Client = TestClient[Litestar]

MODEL = EmbeddingModel("starter", "0" * 64, 384)


def test_a_process_that_answers_is_live(client: Client) -> None:
    response = client.get("/health/live")
    assert (response.status_code, response.json()) == (200, {"live": True})


def test_a_model_that_embeds_is_ready(client: Client) -> None:
    response = client.get("/health/ready")
    assert (response.status_code, response.json()) == (200, {"ready": True})


def test_other_servers_clients_get_no_body_where_it_is_ready(client: Client) -> None:
    response = client.get("/health")
    assert (response.status_code, response.content) == (200, b"")


def test_a_model_that_fails_is_not_ready_but_live(starter_bundle: Path, tmp_path: Path) -> None:
    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with (
            open_failing_embedder(starter_bundle) as embedder,
            open_sqlite_store(tmp_path / "memory.db", MODEL) as store,
        ):
            app.state.memories = Memories(store, embedder, relevance_cutoff=0.0)
            yield

    app = Litestar(
        [live, ready, healthy],
        lifespan=[lifespan],
        dependencies={"memories": Provide(lambda: app.state.memories, sync_to_thread=False)},
        logging_config=None,
    )
    with TestClient(app) as client:
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] == "not_ready"
        assert "the model failed" in response.json()["detail"]
        assert client.get("/health").status_code == 503
        assert client.get("/health/live").status_code == 200


def test_info_describes_the_model_and_what_runs_it(client: Client, prompted_bundle: Path) -> None:
    manifest = read_manifest(prompted_bundle)
    info = client.get("/info").json()
    store = info["store"]
    assert store["address"].endswith("memory.db")
    assert "exact" in store["vector_search"]
    assert manifest.relevance is not None
    assert 128 <= info["limits"]["max_batch_tokens"] <= 2_048
    assert info["workers"] in (1, usable_cores())
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
            "max_batch_tokens": info["limits"]["max_batch_tokens"],
            "max_queued_tokens": 524_288,
        },
        "workers": info["workers"],
        "threads": usable_cores(),
        "cache": None,
        "parity": None,
        "relevance": msgspec.to_builtins(manifest.relevance),
        "relevance_cutoff": manifest.relevance.cutoff,
        "store": {
            "kind": "sqlite",
            "address": store["address"],
            "version": sqlite3.sqlite_version,
            "vector_search": store["vector_search"],
            "embedding_model": msgspec.to_builtins(embedding_model_of(manifest)),
        },
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


def test_info_shows_the_limits_that_were_set(starter_bundle: Path, tmp_path: Path) -> None:
    settings = Settings(
        model=starter_bundle,
        store=f"sqlite:///{tmp_path}/memory.db",
        max_batch_texts=3,
        max_batch_tokens=100,
        max_queued_tokens=200,
        threads=2,
        workers=3,
        warm_up=False,
    )
    with TestClient(create_app(settings)) as client:
        info = client.get("/info").json()
        assert info["limits"] == {
            "max_tokens_per_text": 256,
            "max_batch_texts": 3,
            "max_batch_tokens": 100,
            "max_queued_tokens": 200,
        }
        assert (info["threads"], info["workers"]) == (2, 3)
        assert "trying out" in info["notice"]
        response = client.post("/v1/embeddings", json={"input": ["a"] * 4})
        assert "at most 3 texts" in response.json()["error"]["message"]


def test_info_shows_what_the_cache_holds(starter_bundle: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/memory.db"
    with TestClient(create_app(Settings(model=starter_bundle, store=store, cache_bytes=10**6))) as (
        client
    ):
        for _ in range(3):
            client.post("/v1/embeddings", json={"input": ["red", "blue"]})
        cache = client.get("/info").json()["cache"]
        assert 2 * 4 * 384 < cache.pop("bytes") < 10_000
        assert cache == {"max_bytes": 10**6, "entries": 2, "hits": 4, "misses": 2}
