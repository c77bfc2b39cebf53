"""One pass through every route, on every store."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.requests import (
    Client,
    answered,
    created,
    refused,
    relate,
    remember,
    search,
    serving,
    supersede,
)
from tests.memory.memories import unique_tenant
from tests.neo4j_server import wipe
from tests.stores import NEO4J, GetServer, store_names

AT_FIRST = "2026-01-01T00:00:00Z"


@pytest.fixture(scope="module", params=store_names())
def service_on_store(
    request: pytest.FixtureRequest,
    starter_bundle: Path,
    running_server: GetServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Client]:
    """The whole service on a store that holds nothing, which is left so."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("store") / "memory.db"
        with serving(starter_bundle, f"sqlite:///{path}") as client:
            yield client
        return
    server = running_server(request.param.removeprefix(NEO4J))
    login = {"neo4j_username": server.username, "neo4j_password": server.password}
    wipe(server)
    try:
        with serving(starter_bundle, server.uri, **login) as client:
            yield client
    finally:
        wipe(server)


@pytest.fixture
def filled(service_on_store: Client) -> Client:
    """What Ada and Bob drink, as a tenant of its own."""
    service_on_store.enter(unique_tenant())
    ada: dict[str, Any] = {"user_id": "ada", "session_id": "monday", "tags": ["drinks"]}
    tea = {"id": "tea", "valid_from": AT_FIRST, "metadata": {"cups": 2}}
    remember(service_on_store, "Ada drinks tea in the morning.", **tea, **ada, context="home")
    remember(service_on_store, "The printer is out of toner.", id="printer", user_id="bob")
    remember(service_on_store, "Bob drinks lemonade.", id="lemonade", user_id="bob")
    supersede(service_on_store, "tea", "Ada drinks coffee in the morning.", id="coffee")
    relate(service_on_store, "coffee", "lemonade")
    relate(service_on_store, "lemonade", "printer", "CAUSES")
    return service_on_store


def test_memories_are_remembered_read_changed_and_forgotten(filled: Client) -> None:
    body = {"content": "Ada has a kettle.", "relations": [{"target": "coffee"}]}
    headers = {"Idempotency-Key": "key"}
    memory = created(filled.post("/memories", json=body, headers=headers))
    again = filled.post("/memories", json=body, headers=headers)
    assert (again.headers["idempotent-replayed"], again.json()) == ("true", memory)
    assert answered(filled.post("/memories", json={"content": body["content"]}))["duplicate"]
    refused(filled.post("/memories", json=body | {"id": "tea"}), 409, "conflict")
    path = f"/memories/{memory['id']}"
    changed = answered(filled.patch(path, json={"title": "Zebras", "tags": ["a", "b"]}))
    assert answered(filled.get(path)) == changed
    assert search(filled, "zebra", mode="text") == [memory["id"]]
    assert answered(filled.delete(path)) == {"memories": 1, "relations": 1, "dry_run": False}
    refused(filled.get(path), 404, "memory_not_found")


def test_a_batch_is_remembered_listed_and_forgotten(filled: Client) -> None:
    memories = [{"content": f"note {number}", "tags": ["note"]} for number in range(7)]
    memories.append({"content": "Ada drinks rum.", "id": "tea"})
    answer = answered(filled.post("/memories/batch", json={"memories": memories}))
    assert answer["counts"] == {"created": 7, "conflict": 1}
    parameters: dict[str, Any] = {"filter": json.dumps({"tags": "note"}), "limit": 4}
    first = answered(filled.get("/memories", params=parameters))
    cursor = {"cursor": first["next_cursor"]}
    last = answered(filled.get("/memories", params=parameters | cursor))
    ids = [memory["id"] for memory in (*first["memories"], *last["memories"])]
    made = [result["memory"]["id"] for result in answer["results"][:7]]
    assert (ids, last["next_cursor"]) == (sorted(made, reverse=True), None)
    deletion = {"filter": {"tags": {"all": ["note"]}}, "dry_run": True}
    assert answered(filled.post("/memories/delete", json=deletion))["memories"] == 7
    deletion["dry_run"] = False
    assert answered(filled.post("/memories/delete", json=deletion))["memories"] == 7
    assert answered(filled.get("/stats"))["memories"] == 4


def test_memories_are_found_by_meaning_words_relations_and_time(filled: Client) -> None:
    for mode in ("hybrid", "vector", "text"):
        found = search(filled, "Does Ada drink coffee at dawn?", mode=mode)
        assert found[0] == "coffee"
        assert "tea" not in found
    assert search(filled, "toner", mode="text") == ["printer"]
    assert search(filled, "tea", mode="text", as_of=AT_FIRST) == ["tea"]
    found_by_filter = search(filled, "anything", filter={"user_id": "bob"}, limit=2)
    assert set(found_by_filter) == {"lemonade", "printer"}
    body = {"query": "coffee", "mode": "text", "hops": 2, "explain": True}
    answer = answered(filled.post("/memories/search", json=body))
    assert answer["results"][0]["explanation"]["rank_by_words"] == 1
    assert [(each["memory"]["id"], each["hops"]) for each in answer["related"]] == [
        ("lemonade", 1),
        ("printer", 2),
    ]


def test_what_is_relevant_is_recalled(filled: Client) -> None:
    body = {"query": "What does Ada drink in the morning?", "filter": {"user_id": "ada"}}
    answer = answered(filled.post("/recall", json=body))
    assert [citation["id"] for citation in answer["citations"]] == ["coffee"]
    then = answered(filled.post("/recall", json=body | {"as_of": AT_FIRST}))
    assert then["context"] == "- (2026-01-01) Ada drinks tea in the morning."
    nothing = answered(filled.post("/recall", json={"query": "How do I renew a passport?"}))
    assert nothing == {"context": "", "citations": [], "tokens": 0}


def test_relations_are_made_followed_and_deleted(filled: Client) -> None:
    parameters: dict[str, Any] = {"hops": 2, "relation_type": ["RELATED_TO", "CAUSES"]}
    answer = answered(filled.get("/memories/coffee/related", params=parameters))
    assert [each["memory"]["id"] for each in answer["related"]] == ["lemonade", "printer"]
    ends = {"source": "coffee", "target": "lemonade"}
    assert answered(filled.delete("/relations", params=ends)) == {"relations": 1}
    refused(filled.delete("/relations", params=ends), 404, "relation_not_found")
    refused(filled.post("/relations", json=ends | {"target": "rum"}), 404, "memory_not_found")


def test_history_is_kept_and_repaired(filled: Client) -> None:
    supersede(filled, "coffee", "Ada drinks water.", id="water")
    refused(filled.post("/memories/tea/supersede", json={"content": "a"}), 409, "conflict")
    history = answered(filled.get("/memories/coffee/history"))["memories"]
    assert [memory["id"] for memory in history] == ["tea", "coffee", "water"]
    answered(filled.delete("/memories/coffee"))
    tea, water = (answered(filled.get(f"/memories/{id}")) for id in ("tea", "water"))
    assert (tea["superseded_by"], water["supersedes"]) == ("water", "tea")
    assert tea["valid_to"] == water["valid_from"]


def test_what_there_is_is_counted_and_scopes_are_forgotten(filled: Client) -> None:
    assert answered(filled.get("/tags")) == {"tags": [{"name": "drinks", "memories": 1}]}
    assert answered(filled.get("/contexts")) == {"contexts": [{"name": "home", "memories": 1}]}
    assert answered(filled.get("/stats")) == {
        "memories": 4,
        "current": 3,
        "relations": 2,
        "tags": 1,
        "contexts": 1,
        "users": 2,
        "agents": 0,
        "sessions": 1,
    }
    forgotten = answered(filled.delete("/sessions/monday"))
    assert forgotten == {"memories": 2, "relations": 1, "dry_run": False}
    assert answered(filled.delete("/users/bob"))["memories"] == 2
    assert set(answered(filled.get("/stats")).values()) == {0}


def test_an_export_comes_back_as_it_was(filled: Client) -> None:
    def lines() -> list[str]:
        return filled.get("/export", params={"embeddings": True}).text.splitlines()[1:]

    before = lines()
    dump = filled.get("/export", params={"embeddings": True}).content
    filled.enter(unique_tenant())
    for outcome in ("created", "unchanged"):
        response = filled.post("/import", content=dump)
        ending = json.loads(response.text.splitlines()[-1])
        assert (ending[outcome], ending["relations"], ending["done"]) == (4, 3, True)
        assert lines() == before


def test_the_service_says_which_store_it_has_and_that_it_is_ready(filled: Client) -> None:
    store = answered(filled.get("/info"))["store"]
    assert store["embedding_model"]["dimensions"] == 384
    assert store["kind"] in ("sqlite", "neo4j")
    assert store["version"]
    assert answered(filled.get("/health/ready")) == {"ready": True}
