import platform
import sqlite3
from importlib.metadata import version
from pathlib import Path

import msgspec
from litestar import Litestar
from litestar.testing import TestClient

import service
from service.api.info import TeiInfo
from service.app import create_app
from service.embedding.cores import usable_cores
from service.embedding.manifest import read_manifest
from service.memory.memories import embedding_model_of
from service.settings import Settings

Client = TestClient[Litestar]


def test_info_describes_the_model_and_what_runs_it(client: Client, prompted_bundle: Path) -> None:
    manifest = read_manifest(prompted_bundle)
    info = client.get("/info").json()
    store = info["store"]
    assert store["address"].endswith("memory.db")
    assert "exact" in store["vector_search"]
    assert manifest.relevance is not None
    assert 128 <= info["limits"]["max_batch_tokens"] <= 2_048
    assert info["workers"] in (1, usable_cores())
    ours = {name: value for name, value in info.items() if name not in TeiInfo.__struct_fields__}
    assert ours == {
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


def test_info_has_the_fields_of_text_embeddings_inference(
    client: Client, prompted_bundle: Path
) -> None:
    source = read_manifest(prompted_bundle).source
    info = client.get("/info").json()
    assert {name: info[name] for name in TeiInfo.__struct_fields__} == {
        "model_id": source.id,
        "model_sha": source.revision,
        "model_dtype": "int8",
        "served_model_name": "prompted",
        "model_type": {"embedding": {}},
        "max_concurrent_requests": 524_288,
        "max_input_length": 256,
        "max_client_batch_size": 2_048,
        "max_batch_tokens": info["limits"]["max_batch_tokens"],
        "auto_truncate": True,
        "tokenization_workers": 2,
        "version": service.__version__,
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
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
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
    settings = Settings(model=starter_bundle, store=store, cache_bytes=10**6)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        for _ in range(3):
            client.post("/v1/embeddings", json={"input": ["red", "blue"]})
        cache = client.get("/info").json()["cache"]
        assert 2 * 4 * 384 < cache.pop("bytes") < 10_000
        assert cache == {"max_bytes": 10**6, "entries": 2, "hits": 4, "misses": 2}
