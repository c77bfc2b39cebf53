import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.embedding.onnx_model import Embeddings
from tests.api.requests import answered, relate, remember, search, serving, supersede
from tests.neo4j_server import wipe
from tests.service_process import clean_environment, running_service
from tests.stores import NEO4J, GetServer, store_names

Completed = subprocess.CompletedProcess[str]

# Commands take seconds to start; tests/test_readme.py runs two of them each time.
pytestmark = pytest.mark.slow

MANY = 2_000
DEADLINE_SECONDS = 60


def command(*arguments: str, **variables: str) -> dict[str, Any]:
    """What Popen starts a command with."""
    return {
        "args": [sys.executable, "-m", "service", *arguments],
        "env": clean_environment() | variables,
    }


def run(*arguments: str, **variables: str) -> Completed:
    done = subprocess.run(
        **command(*arguments, **variables), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return done


def succeed(*arguments: str, **variables: str) -> Completed:
    done = run(*arguments, **variables)
    assert done.returncode == 0, done.stderr
    return done


def fail(*arguments: str, **variables: str) -> str:
    """The one line that says why a command was refused."""
    done = run(*arguments, MEMORY_LOG_LEVEL="error", **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def dumped(store: str, *arguments: str, **variables: str) -> list[str]:
    """The lines of a dump, without the header, which has the time."""
    done = succeed("dump", "-", *arguments, MEMORY_STORE=store, **variables)
    return done.stdout.splitlines()[1:]


def without_embeddings(lines: list[str]) -> list[Any]:
    return [
        {name: value for name, value in json.loads(line).items() if name != "embedding"}
        for line in lines
    ]


def embeddings_of(lines: list[str]) -> Embeddings:
    """Those of the memories, in order.  # (memories, dimensions)"""
    memories = [memory for memory in map(json.loads, lines) if memory["type"] == "memory"]
    return np.stack([decoded(memory["embedding"]) for memory in memories])


def decoded(embedding: str) -> Embeddings:
    return np.frombuffer(base64.b64decode(embedding), "<f4")


def kill_once(process: "subprocess.Popen[bytes]", written: Path, size: int) -> bool:
    """Kill a process that writes a file as soon as there is so much of it; whether it still ran."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while process.poll() is None and not (written.exists() and written.stat().st_size >= size):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def filled(starter_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which two tenants have memories, with a history and relations."""
    path = tmp_path_factory.mktemp("filled") / "memory.db"
    with serving(starter_bundle, url_of(path)) as client:
        for tenant in ("default", "other"):
            client.enter(tenant)
            tea: dict[str, Any] = {"id": "tea", "tags": ["a", "b"], "metadata": {"ü": [1, None]}}
            remember(client, f"Ada drinks tea; {tenant}.", title="Drinks", context="home", **tea)
            remember(client, "Ada has a kettle.\n☕", id="kettle", user_id="ada")
            supersede(client, "tea", "Ada drinks coffee.", id="coffee")
            relate(client, "coffee", "kettle", "CAUSES")
            relate(client, "kettle", "tea")
            answered(client.patch("/memories/kettle", json={"importance": 0.1}))
    return path


@pytest.fixture(scope="module")
def large(starter_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of so many memories that a command takes a while."""
    path = tmp_path_factory.mktemp("large") / "memory.db"
    with serving(starter_bundle, url_of(path)) as client:
        for start in range(0, MANY, 1_000):
            memories = [
                {"content": f"Ada's note number {number}.", "id": f"n{number:05}"}
                | ({"relations": [{"target": f"n{number - 1:05}"}]} if number else {})
                for number in range(start, start + 1_000)
            ]
            answered(client.post("/memories/batch", json={"memories": memories}))
    return path


@pytest.fixture(params=[name for name in store_names() if name.startswith(NEO4J)])
def neo4j(
    request: pytest.FixtureRequest, running_server: GetServer
) -> Iterator[tuple[str, dict[str, str]]]:
    """The URL of an empty Neo4j store, and the variables to log in with."""
    server = running_server(request.param.removeprefix(NEO4J))
    wipe(server)
    yield server.uri, {"NEO4J_USERNAME": server.username, "NEO4J_PASSWORD": server.password}
    wipe(server)


def test_a_dump_loads_into_another_store_as_it_was(
    filled: Path, starter_bundle: Path, tmp_path: Path
) -> None:
    dump, copy = tmp_path / "dump.jsonl", url_of(tmp_path / "copy.db")
    succeed("dump", str(dump), MEMORY_STORE=url_of(filled))
    assert not dump.with_name("dump.jsonl.partial").exists()
    variables = {"MEMORY_STORE": copy, "MEMORY_MODEL": str(starter_bundle)}
    *_, audit, counts = succeed("load", str(dump), **variables).stderr.splitlines()
    assert 'audit action=import by="command line, user ' in audit
    assert audit.endswith("count=6")
    assert counts == (
        "lines 15, created 6, replaced 0, unchanged 0, kept 0, embedded 0, relations 6, dropped 0"
    )
    assert dumped(copy) == dumped(url_of(filled)) == dump.read_text().splitlines()[1:]
    again = succeed("load", str(dump), **variables).stderr.splitlines()[-1]
    assert "created 0, replaced 0, unchanged 6" in again
    assert dumped(copy) == dumped(url_of(filled))


def test_a_dump_without_embeddings_is_embedded_when_it_is_loaded(
    filled: Path, starter_bundle: Path, tmp_path: Path
) -> None:
    dump, copy = tmp_path / "dump.jsonl", tmp_path / "copy.db"
    succeed("dump", str(dump), "--no-embeddings", MEMORY_STORE=url_of(filled))
    assert "embedding" not in dump.read_text().split("\n", 1)[1]
    with dump.open() as lines:
        done = subprocess.run(
            **command("load", "-", "--store", url_of(copy), "--model", str(starter_bundle)),
            stdin=lines,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
    assert "created 6" in done.stderr
    assert "embedded 6" in done.stderr
    assert without_embeddings(dumped(url_of(copy))) == without_embeddings(dumped(url_of(filled)))
    with serving(starter_bundle, url_of(copy)) as client:
        assert search(client, "coffee", limit=1) == ["coffee"]


def test_a_load_that_was_killed_is_finished_by_the_next(
    large: Path, starter_bundle: Path, tmp_path: Path
) -> None:
    dump, copy = tmp_path / "dump.jsonl", url_of(tmp_path / "copy.db")
    succeed("dump", str(dump), MEMORY_STORE=url_of(large))
    variables = {"MEMORY_STORE": copy, "MEMORY_MODEL": str(starter_bundle)}
    with (
        subprocess.Popen(**command("load", "-", **variables), stdin=subprocess.PIPE) as loading,
        dump.open("rb") as lines,
    ):
        assert loading.stdin
        # More than fits into a pipe, so that most of it has been taken out of it.
        loading.stdin.writelines(next(lines) for _ in range(1_400))
        loading.stdin.flush()
        loading.kill()
    assert 500 <= len(dumped(copy)) - 1 < MANY
    done = succeed("load", str(dump), **variables)
    assert "created 0" not in done.stderr
    assert "unchanged 0" not in done.stderr
    assert dumped(copy) == dump.read_text().splitlines()[1:]


def test_a_dump_that_was_killed_leaves_no_file_that_passes_for_one(
    large: Path, tmp_path: Path
) -> None:
    dump = tmp_path / "dump.jsonl"
    partial = tmp_path / "dump.jsonl.partial"
    os.mkfifo(partial)  # keeps it waiting in the middle
    with (
        subprocess.Popen(**command("dump", str(dump), MEMORY_STORE=url_of(large))) as dumping,
        partial.open("rb") as lines,
    ):
        lines.readline()
        dumping.kill()
    assert not dump.exists()
    partial.unlink()
    succeed("dump", str(dump), MEMORY_STORE=url_of(large))
    assert dump.read_text().splitlines()[1:] == dumped(url_of(large))


def test_a_migration_through_neo4j_loses_nothing(
    filled: Path, neo4j: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    there, login = neo4j
    back = url_of(tmp_path / "back.db")
    for _ in range(2):
        succeed("migrate", "--from", url_of(filled), "--to", there, **login)
    succeed("migrate", "--from", there, "--to", back, **login)
    assert dumped(back) == dumped(url_of(filled))


def test_a_migration_that_was_killed_is_finished_by_the_next(large: Path, tmp_path: Path) -> None:
    everything = dumped(url_of(large))
    for attempt in range(20):
        copy = tmp_path / f"copy-{attempt}.db"
        arguments = ("migrate", "--from", url_of(large), "--to", url_of(copy))
        with subprocess.Popen(**command(*arguments)) as migrating:
            killed = kill_once(migrating, copy.with_name(f"{copy.name}-wal"), 1_000_000)
        if killed and 0 < len(dumped(url_of(copy))) < len(everything):
            succeed(*arguments)
            assert dumped(url_of(copy)) == everything
            return
    pytest.fail("the migration was never killed in the middle")


def test_a_store_gets_the_embeddings_of_another_model(
    filled: Path, prompted_bundle: Path, tmp_path: Path
) -> None:
    store = tmp_path / "memory.db"
    shutil.copy(filled, store)
    variables = {"MEMORY_STORE": url_of(store), "MEMORY_MODEL": str(prompted_bundle)}
    dump, fresh = tmp_path / "dump.jsonl", url_of(tmp_path / "fresh.db")
    succeed("dump", str(dump), MEMORY_STORE=url_of(store))
    for _ in range(2):
        succeed("re-embed", **variables)
    re_embedded, before = dumped(url_of(store)), dump.read_text().splitlines()[1:]
    assert re_embedded != before
    assert without_embeddings(re_embedded) == without_embeddings(before)
    assert "embedded 6" in succeed("load", str(dump), **variables | {"MEMORY_STORE": fresh}).stderr
    loaded = dumped(fresh)
    assert without_embeddings(loaded) == without_embeddings(re_embedded)
    # The last bits depend on how many cores computed a text.
    assert (embeddings_of(loaded) * embeddings_of(re_embedded)).sum(axis=1).min() >= 0.9999
    with serving(prompted_bundle, url_of(store)) as client:
        assert search(client, "coffee", mode="vector", limit=1) == ["coffee"]


def test_re_embedding_that_was_killed_is_finished_by_the_next(
    large: Path, starter_bundle: Path, prompted_bundle: Path, tmp_path: Path
) -> None:
    store = tmp_path / "memory.db"
    shutil.copy(large, store)
    variables = {"MEMORY_STORE": url_of(store), "MEMORY_MODEL": str(prompted_bundle)}
    with subprocess.Popen(**command("re-embed", **variables)) as embedding:
        assert kill_once(embedding, store.with_name("memory.db-wal"), 1_000_000)
    for bundle in (starter_bundle, prompted_bundle):
        opening = ("load", os.devnull, "--model", str(bundle), "--store", url_of(store))
        assert "re-embed" in fail(*opening)
    assert "re-embed" in fail("dump", "-", MEMORY_STORE=url_of(store))
    succeed("re-embed", **variables)
    with serving(prompted_bundle, url_of(store)) as client:
        response = client.get("/export", params={"embeddings": True})
        memories = [json.loads(line) for line in response.text.splitlines()[1 : MANY + 1]]
        texts = {"input": [memory["content"] for memory in memories[::500]]}
        wanted = answered(
            client.post(
                "/v1/embeddings",
                json=texts | {"input_type": "document", "encoding_format": "base64"},
            )
        )
    for memory, embedded in zip(memories[::500], wanted["data"], strict=True):
        assert decoded(memory["embedding"]) @ decoded(embedded["embedding"]) > 0.999


def test_a_store_in_use_is_not_opened_a_second_time(
    filled: Path, starter_bundle: Path, tmp_path: Path
) -> None:
    store = tmp_path / "memory.db"
    shutil.copy(filled, store)
    arguments = ("--store", url_of(store), "--model", str(starter_bundle))
    with running_service(tmp_path, *arguments) as running:
        assert running.port
        assert f"in use by process {running.process.pid}" in fail("dump", "-", *arguments)


def test_a_store_of_another_model_is_refused(
    filled: Path, prompted_bundle: Path, tmp_path: Path
) -> None:
    dump, other = tmp_path / "dump.jsonl", url_of(tmp_path / "other.db")
    succeed("dump", str(dump), MEMORY_STORE=url_of(filled))
    model = {"MEMORY_MODEL": str(prompted_bundle)}
    succeed("load", str(dump), MEMORY_STORE=other, **model)
    complaint = fail("load", str(dump), MEMORY_STORE=url_of(filled), **model)
    assert "all-minilm-l6-v2" in complaint
    assert "prompted" in complaint
    assert "prompted" in fail("migrate", "--from", url_of(filled), "--to", other)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no dump\n", "line 1"),
        ('{"type": "memory"}\n', "line 1"),
        ('{"type": "memory", "id": "a", "content": "a"}\n', "line 1"),
        (None, "No such file"),
    ],
)
def test_what_is_not_a_dump_is_refused(
    starter_bundle: Path, tmp_path: Path, content: str | None, says: str
) -> None:
    dump = tmp_path / "dump.jsonl"
    if content is not None:
        dump.write_text(content)
    store = url_of(tmp_path / "memory.db")
    model = {"MEMORY_MODEL": str(starter_bundle)}
    assert says in fail("load", str(dump), MEMORY_STORE=store, **model)


@pytest.mark.parametrize("store", ["mysql://localhost/memory", "memory.db", "sqlite:///", "http:"])
def test_an_address_that_is_not_of_a_store_is_refused(filled: Path, store: str) -> None:
    complaint = fail("dump", "-", MEMORY_STORE=store)
    assert "expected sqlite:///path/to/file.db, or neo4j://host:7687" in complaint
    assert "expected" in fail("migrate", "--from", url_of(filled), "--to", store)


def test_a_server_that_does_not_answer_is_named(filled: Path) -> None:
    complaint = fail("migrate", "--from", url_of(filled), "--to", "bolt://127.0.0.1:1")
    assert "127.0.0.1:1" in complaint


def test_a_store_that_is_not_there_is_not_dumped(tmp_path: Path) -> None:
    dump = tmp_path / "dump.jsonl"
    fail("dump", str(dump), MEMORY_STORE=url_of(tmp_path / "memory.db"))
    assert not dump.exists()


def test_a_dump_into_a_folder_that_is_not_there_is_refused(filled: Path, tmp_path: Path) -> None:
    complaint = fail("dump", str(tmp_path / "nowhere" / "dump"), MEMORY_STORE=url_of(filled))
    assert "nowhere" in complaint


def test_a_store_is_not_migrated_into_itself(filled: Path) -> None:
    complaint = fail("migrate", "--from", url_of(filled), "--to", url_of(filled))
    assert "two different stores" in complaint
