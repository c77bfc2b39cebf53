from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from litestar import Litestar
from litestar.di import Provide
from litestar.testing import TestClient

from service.api.health import healthy, live, ready
from service.memory.memories import Memories
from service.memory.sqlite_store import open_sqlite_store
from service.memory.store import EmbeddingModel
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
