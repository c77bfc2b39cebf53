import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from neo4j.exceptions import AuthError, ServiceUnavailable

from tests.neo4j_server import (
    RUNNING,
    VERSIONS,
    Neo4jServer,
    connected,
    running_neo4j,
    versions_to_test,
    why_unavailable,
    wipe,
)
from tests.service_process import REPOSITORY

needs_own_server = pytest.mark.skipif(
    not set(versions_to_test()) & set(VERSIONS),
    reason=why_unavailable() or f"{RUNNING} is set, and that server is not ours to stop",
)


@contextmanager
def own_server(folder: Path) -> Iterator[Neo4jServer]:
    with running_neo4j(versions_to_test()[0], folder) as server:
        yield server


def names(server: Neo4jServer) -> list[str]:
    with connected(server) as driver:
        return driver.execute_query("MATCH (n:Named) RETURN n.name AS name").records[0].values()


@pytest.mark.slow
@needs_own_server
def test_a_server_keeps_its_data_and_address_when_it_is_killed_and_started(tmp_path: Path) -> None:
    with own_server(tmp_path) as server:
        with connected(server) as driver:
            driver.execute_query("CREATE (:Named {name: 'ada'})")
        server.kill()
        with pytest.raises(ServiceUnavailable):
            names(server)
        server.start()
        assert names(server) == ["ada"]
        server.stop()
        server.start()
        assert names(server) == ["ada"]


@pytest.mark.slow
@needs_own_server
def test_wiping_deletes_nodes_indexes_and_constraints(tmp_path: Path) -> None:
    with own_server(tmp_path) as server:
        with connected(server) as driver:
            driver.execute_query("CREATE CONSTRAINT one FOR (n:Named) REQUIRE n.name IS UNIQUE")
            driver.execute_query("CREATE INDEX other FOR (n:Named) ON (n.age)")
            driver.execute_query("UNWIND range(1, 3) AS name CREATE (:Named {name: name})")
        wipe(server)
        with connected(server) as driver:
            assert driver.execute_query("MATCH (n) RETURN n").records == []
            assert driver.execute_query("SHOW CONSTRAINTS").records == []
            kinds = driver.execute_query("SHOW INDEXES YIELD type").records
            assert {kind["type"] for kind in kinds} == {"LOOKUP"}


@pytest.mark.slow
@needs_own_server
def test_a_server_needs_its_password(tmp_path: Path) -> None:
    with own_server(tmp_path) as server:
        server.password = "another one"
        with pytest.raises(AuthError), connected(server) as driver:
            driver.verify_connectivity()


@pytest.mark.slow
@needs_own_server
def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from tests.neo4j_server import versions_to_test, running_neo4j
with running_neo4j(versions_to_test()[0], Path({str(tmp_path)!r})):
    print("ready", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        started = psutil.Process(process.pid).children(recursive=True)
        assert any("java" in child.name() for child in started)
        process.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive


def test_a_server_that_runs_already_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(RUNNING, "bolt://somewhere:7687")
    monkeypatch.setenv("NEO4J_PASSWORD", "secret")
    assert versions_to_test() == [RUNNING]
    with running_neo4j(RUNNING, tmp_path) as server:
        assert (server.uri, server.username) == ("bolt://somewhere:7687", "neo4j")
        assert server.password == "secret"
