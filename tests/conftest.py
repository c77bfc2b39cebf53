import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from litestar import Litestar
from litestar.testing import TestClient

from service.app import create_app
from service.embedding.manifest import MANIFEST_NAME, BundleFile, read_manifest, sha256_of
from service.settings import Settings
from tests.neo4j_server import Neo4jServer, running_neo4j, why_unavailable
from tests.stores import GetServer, store_names

# How long an example takes says what else the machine does.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store_name" in metafunc.fixturenames:
        metafunc.parametrize("store_name", store_names())


def pytest_collection_finish() -> None:
    # What has been imported stays; from here on no collection of garbage looks through it again.
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if why := why_unavailable():
        terminalreporter.line(f"Neo4j was not tested: {why}")


@pytest.fixture(scope="session")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GetServer]:
    """Gives the server of a version, started when it is asked for first."""
    with ExitStack() as servers:

        @cache
        def server_of(version: str) -> Neo4jServer:
            return servers.enter_context(running_neo4j(version, tmp_path_factory.mktemp("neo4j")))

        yield server_of


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def starter_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter model, built as a user builds it: no prompts, one size of embeddings."""
    models = tmp_path_factory.mktemp("models")
    command = [
        sys.executable,
        "-m",
        "export",
        "starter",
        "--no-parity",
        "--models-dir",
        str(models),
    ]
    subprocess.run(command, check=True)
    return models / "all-minilm-l6-v2"


@pytest.fixture(scope="session")
def prompted_bundle(starter_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter model under a manifest that gives it prompts and Matryoshka sizes."""
    bundle = tmp_path_factory.mktemp("models") / "prompted"
    shutil.copytree(starter_bundle, bundle)
    manifest = msgspec.structs.replace(
        read_manifest(bundle),
        name="prompted",
        matryoshka_dimensions=(384, 256, 128),
        prompts={"search": "find: ", "document": "text: ", "clustering": "group: "},
        query_prompt="search",
        document_prompt="document",
        default_prompt="document",
        known_answers=None,
        notice=None,
    )
    (bundle / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    return bundle


@pytest.fixture(scope="session")
def fragile_bundle(starter_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter model with a tokenizer whose id for "volcano" its graph does not know."""
    bundle = tmp_path_factory.mktemp("models") / "fragile"
    shutil.copytree(starter_bundle, bundle)
    manifest = read_manifest(bundle)
    path = bundle / manifest.tokenizer.name
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["volcano"] = 10**6
    path.write_text(json.dumps(tokenizer))
    recorded = BundleFile(path.name, sha256_of(path), path.stat().st_size)
    manifest = msgspec.structs.replace(manifest, tokenizer=recorded)
    (bundle / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    return bundle


@pytest.fixture(scope="session")
def client(
    prompted_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient[Litestar]]:
    """The whole service with the prompted model and a new SQLite store, without a socket."""
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/memory.db"
    app = create_app(Settings(model=prompted_bundle, store=store))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client
