"""What was acknowledged survives kill -9, of the service and of the database, and nothing is torn.

Clients write as fast as they can while the process is killed (tests/writers.py).
"""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from neo4j import GraphDatabase

from tests.neo4j_server import Neo4jServer, running_neo4j, versions_to_test
from tests.service_process import ServiceProcess, running_service
from tests.writers import Written, check_everything, check_sqlite, wait_for_writes, writing

pytestmark = pytest.mark.slow

SERVICE_KILLS = 50
SERVICE_KILLS_ON_NEO4J = 3
NEO4J_KILLS = 5  # of each version


def kill_again_and_again(
    folder: Path, flags: list[str], kills: int, seed: int, check: Callable[[], None]
) -> None:
    written = Written()
    moments = random.Random(seed)
    for round in range(kills):
        with (
            running_service(folder, *flags) as service,
            writing(service.url, f"r{round}", written),
        ):
            wait_for_writes(written, moments.randrange(1, 120))
            service.process.kill()
            service.process.wait()
    with running_service(folder, *flags) as service:
        check_everything(service.url, written)
        assert service.end() == 0
    check()
    assert len(written.acknowledged) > 20 * kills
    assert not written.refused


def test_the_service_may_be_killed_while_it_writes_to_sqlite(
    starter_bundle: Path, tmp_path: Path
) -> None:
    flags = ["--model", str(starter_bundle)]
    kill_again_and_again(
        tmp_path, flags, SERVICE_KILLS, 1, lambda: check_sqlite(tmp_path / "memory.db")
    )


@pytest.fixture(scope="module", params=versions_to_test())
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Neo4jServer]:
    """A server that is ours to kill."""
    with running_neo4j(request.param, tmp_path_factory.mktemp("neo4j")) as server:
        yield server


@pytest.fixture
def login(server: Neo4jServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEO4J_USERNAME", server.username or "")
    monkeypatch.setenv("NEO4J_PASSWORD", server.password or "")


@pytest.mark.usefixtures("login")
def test_the_service_may_be_killed_while_it_writes_to_neo4j(
    starter_bundle: Path, tmp_path: Path, server: Neo4jServer
) -> None:
    flags = ["--model", str(starter_bundle), "--store", server.uri]
    kill_again_and_again(tmp_path, flags, SERVICE_KILLS_ON_NEO4J, 2, lambda: check_neo4j(server))


@pytest.mark.usefixtures("login")
def test_neo4j_may_be_killed_under_a_service_that_writes(
    starter_bundle: Path, tmp_path: Path, server: Neo4jServer
) -> None:
    written = Written()
    flags = ["--model", str(starter_bundle), "--store", server.uri]
    with running_service(tmp_path, *flags) as service:
        for round in range(NEO4J_KILLS):
            with writing(service.url, f"n{round}", written):
                wait_for_writes(written, 60)
                server.kill()
                wait_for_refusal(service, written)
                server.start()
                wait_for_writes(written, 20)
        check_everything(service.url, written)
        assert service.end() == 0
    check_neo4j(server)
    assert {response.status_code for response in written.refused} == {503}
    assert all(int(response.headers["Retry-After"]) > 0 for response in written.refused)


def wait_for_refusal(service: ServiceProcess, written: Written) -> None:
    """Return when a client was told that the store does not answer; the service stays up."""
    pause = threading.Event()
    before = len(written.refused)
    while len(written.refused) == before:
        pause.wait(0.05)
    assert httpx.get(f"{service.url}/health/live").status_code == 200
    assert httpx.get(f"{service.url}/health/ready", timeout=30).status_code == 503


def check_neo4j(server: Neo4jServer) -> None:
    """No node that no memory needs."""
    auth = (server.username or "", server.password or "")
    with GraphDatabase.driver(server.uri, auth=auth) as driver:
        orphans, _, _ = driver.execute_query(
            "MATCH (n:Tag|Context|User|Session) WHERE NOT EXISTS { (n)--(:Memory) } "
            "RETURN labels(n) AS labels, n.name AS name"
        )
        assert orphans == []
        loose, _, _ = driver.execute_query(
            "MATCH (m:Memory) WHERE m.embedding IS NULL OR m.words IS NULL RETURN m.id"
        )
        assert loose == []
