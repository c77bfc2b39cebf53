"""A full disk under SQLite, and a Neo4j that is gone for a while, under load.

benchmarks/bench_faults.py does the same for a minute.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.faults import fill_the_disk, take_neo4j_away
from tests.neo4j_server import Neo4jServer, running_neo4j, versions_to_test

pytestmark = pytest.mark.slow

SECONDS = 3


def test_a_full_disk_refuses_writes_and_loses_nothing(starter_bundle: Path, tmp_path: Path) -> None:
    fill_the_disk(starter_bundle, tmp_path, SECONDS)


@pytest.fixture(scope="module", params=versions_to_test())
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Neo4jServer]:
    """A server that is ours to take away."""
    with running_neo4j(request.param, tmp_path_factory.mktemp("neo4j")) as server:
        yield server


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_neo4j_that_is_gone_is_waited_for(
    server: Neo4jServer,
    starter_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: Literal["killed", "stopped"],
) -> None:
    monkeypatch.setenv("NEO4J_USERNAME", server.username)
    monkeypatch.setenv("NEO4J_PASSWORD", server.password)
    take_neo4j_away(starter_bundle, tmp_path, server, how, SECONDS)
