"""What was acknowledged survives kill -9, of the service and of the database, and nothing is torn.

Clients write as fast as they can while the process is killed. They note what was acknowledged, and
what they sent in batches, of which all or nothing may be there afterwards.
"""

import json
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from neo4j import GraphDatabase

from tests.neo4j_server import Neo4jServer, running_neo4j, versions_to_test
from tests.service_process import ServiceProcess, running_service

pytestmark = pytest.mark.slow

CLIENTS = 4
BATCH = 20
SERVICE_KILLS = 50
SERVICE_KILLS_ON_NEO4J = 3
NEO4J_KILLS = 5  # of each version


@dataclass
class Written:
    """What clients have sent, and what they were told."""

    acknowledged: dict[str, str] = field(default_factory=dict)  # id: content
    related: list[tuple[str, str]] = field(default_factory=list)
    superseded: dict[str, str] = field(default_factory=dict)  # old id: new id
    batches: list[list[str]] = field(default_factory=list)  # ids, acknowledged or not
    refused: list[httpx.Response] = field(default_factory=list)


def content_of(id: str) -> str:
    return f"{id} is kept by the ferry town at the lake"


def write(client: httpx.Client, name: str, written: Written, stop: threading.Event) -> None:
    """Write until told to stop, or until nobody answers any more."""
    previous: str | None = None
    for number in range(10**9):
        if stop.is_set():
            return
        id = f"{name}-{number}"
        try:
            if number % 7 == 3:
                ids = [f"{id}-{index}" for index in range(BATCH)]
                written.batches.append(ids)
                memories = [new_memory(each) for each in ids]
                response = client.post("/memories/batch", json={"memories": memories})
                kept = ids
            elif number % 5 == 2 and previous:
                body = {"id": id, "content": content_of(id)}
                response = client.post(f"/memories/{previous}/supersede", json=body)
                if response.is_success:
                    written.superseded[previous] = id
                kept = [id]
            else:
                relations = [{"target": previous}] if previous else []
                response = client.post("/memories", json=new_memory(id, relations))
                if response.is_success and previous:
                    written.related.append((id, previous))
                kept = [id]
        except httpx.TransportError:
            return
        if response.is_success:
            written.acknowledged |= {each: content_of(each) for each in kept}
            previous = kept[-1]
        else:
            written.refused.append(response)


def new_memory(id: str, relations: list[dict[str, str]] | None = None) -> dict[str, object]:
    return {
        "id": id,
        "content": content_of(id),
        "tags": [f"tag-{id[-1]}", f"only-{id}"],
        "session_id": f"session-{id}",
        "relations": relations or [],
    }


@contextmanager
def writing(url: str, name: str, written: Written) -> Iterator[None]:
    """Clients that write until the block is left."""
    stop = threading.Event()
    with httpx.Client(base_url=url, timeout=60) as client:
        threads = [
            threading.Thread(target=write, args=(client, f"{name}-{number}", written, stop))
            for number in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def wait_for_writes(written: Written, count: int) -> None:
    """Return when so many more memories were acknowledged."""
    wanted = len(written.acknowledged) + count
    pause = threading.Event()
    while len(written.acknowledged) < wanted:
        pause.wait(0.01)


def check_everything(url: str, written: Written) -> None:
    """All that was acknowledged is there, batches are whole, and it can be found."""
    lines = httpx.get(f"{url}/export", timeout=60).text.splitlines()
    objects = [json.loads(line) for line in lines]
    memories = {each["id"]: each for each in objects if each["type"] == "memory"}
    missing = set(written.acknowledged) - set(memories)
    assert not missing
    assert {id: memories[id]["content"] for id in written.acknowledged} == written.acknowledged
    for ids in written.batches:
        assert sum(id in memories for id in ids) in (0, len(ids))
    links: dict[str, set[tuple[str, str]]] = {"RELATED_TO": set(), "SUPERSEDES": set()}
    for each in objects:
        if each["type"] == "relation":
            links[each["relation_type"]].add((each["source"], each["target"]))
    assert set(written.related) <= links["RELATED_TO"]
    assert {(new, old) for old, new in written.superseded.items()} <= links["SUPERSEDES"]
    for new, old in links["SUPERSEDES"]:
        assert memories[old]["valid_to"] == memories[new]["valid_from"]
        assert memories[old]["superseded_by"] == new
        assert memories[new]["supersedes"] == old
    for source, target in links["RELATED_TO"]:
        assert {source, target} <= set(memories)
    current = [id for id, memory in memories.items() if memory["valid_to"] is None]
    for id in random.Random(len(current)).sample(current, min(20, len(current))):
        for mode in ("text", "vector"):
            found = httpx.post(
                f"{url}/memories/search",
                json={"query": content_of(id), "mode": mode, "limit": 50, "filter": {"id": id}},
            ).json()["results"]
            assert [each["memory"]["id"] for each in found] == [id], (mode, id)


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


def flags_of(bundle: Path, store: str) -> list[str]:
    return ["--model", str(bundle), "--store", store, "--log-level", "warning"]


def test_the_service_may_be_killed_while_it_writes_to_sqlite(
    starter_bundle: Path, tmp_path: Path
) -> None:
    flags = ["--model", str(starter_bundle)]
    kill_again_and_again(
        tmp_path, flags, SERVICE_KILLS, 1, lambda: check_sqlite(tmp_path / "memory.db")
    )


def check_sqlite(path: Path) -> None:
    """No orphans, and a full-text index that has every memory."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.execute("INSERT INTO fts (fts, rank) VALUES ('integrity-check', 1)")
        for part in ("text", "embedding", "code"):
            (apart,) = connection.execute(
                f"SELECT count(*) FROM memory FULL JOIN {part} USING (n) "
                f"WHERE memory.id IS NULL OR {part}.n IS NULL"
            ).fetchone()
            assert apart == 0, part


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
