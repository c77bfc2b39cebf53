from concurrent.futures import ThreadPoolExecutor
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
    supersede,
)

BEFORE = "2020-01-01T00:00:00Z"
LATER = "2100-01-01T00:00:00Z"


def test_a_memory_is_kept_as_it_is_given(http: Client) -> None:
    given: dict[str, Any] = {
        "content": "Ada prefers tea to coffee.",
        "title": "Drinks",
        "memory_type": "preference",
        "metadata": {"source": "chat", "turn": 7, "seen": [True, None, 0.5]},
        "importance": 0.7,
        "context": "home/kitchen",
        "user_id": "ada",
        "agent_id": "butler",
        "session_id": "monday",
        "valid_from": "2026-01-01T00:00:00Z",
        "expires_at": LATER,
    }
    memory = remember(http, **given, tags=["tea", "drinks", "tea"])
    assert memory.items() >= given.items()
    assert memory["tags"] == ["drinks", "tea"]
    assert (memory["valid_to"], memory["supersedes"], memory["superseded_by"]) == (None,) * 3
    assert (memory["version"], memory["duplicate"], memory["truncated"]) == (1, False, False)


def test_what_is_not_given_has_a_default(http: Client) -> None:
    memory = remember(http, "Ada likes tea.")
    assert (memory["memory_type"], memory["importance"], memory["metadata"]) == ("note", 0.5, {})
    assert memory["tags"] == []
    assert memory["created_at"] == memory["updated_at"] == memory["valid_from"]
    assert memory["created_at"].endswith("Z")


def test_the_location_of_a_memory_leads_to_it(http: Client) -> None:
    response = http.post("/memories", json={"content": "Ada likes tea."})
    memory = created(response)
    del memory["duplicate"], memory["truncated"]
    assert answered(http.get(response.headers["location"])) == memory


def test_a_memory_that_is_not_there_is_not_found(http: Client) -> None:
    detail = refused(http.get("/memories/nowhere"), 404, "memory_not_found")
    assert detail == "there is no memory 'nowhere'"


def test_the_same_content_in_the_same_scope_is_kept_once(http: Client) -> None:
    body = {"content": "Ada likes tea.", "user_id": "ada"}
    first = created(http.post("/memories", json=body))
    response = http.post("/memories", json=body | {"tags": ["new"], "importance": 1})
    assert answered(response) == first | {"duplicate": True}
    assert "location" not in response.headers
    assert answered(http.get("/stats"))["memories"] == 1


@pytest.mark.parametrize("scope", ["user_id", "agent_id", "session_id"])
def test_the_same_content_in_another_scope_is_another_memory(http: Client, scope: str) -> None:
    ids = {
        remember(http, "Ada likes tea.", **fields)["id"]
        for fields in ({}, {scope: "a"}, {scope: "b"})
    }
    assert len(ids) == 3


def test_content_that_was_superseded_can_be_remembered_again(http: Client) -> None:
    old = remember(http, "Ada likes tea.")
    supersede(http, old["id"], "Ada likes coffee.")
    assert remember(http, "Ada likes tea.")["id"] != old["id"]


def test_the_same_memory_under_its_own_id_changes_nothing(http: Client) -> None:
    first = remember(http, "Ada likes tea.", id="ada:tea")
    again = http.post("/memories", json={"content": "Ada likes tea.", "id": "ada:tea"})
    assert answered(again) == first
    assert "location" not in again.headers


def test_other_content_under_an_own_id_is_a_conflict(http: Client) -> None:
    remember(http, "Ada likes tea.", id="ada")
    response = http.post("/memories", json={"content": "Ada likes coffee.", "id": "ada"})
    detail = refused(response, 409, "conflict")
    assert "'ada'" in detail
    assert '"on_conflict": "replace"' in detail
    assert answered(http.get("/memories/ada"))["content"] == "Ada likes tea."


def test_other_content_under_an_own_id_takes_its_place_where_that_is_asked_for(
    http: Client,
) -> None:
    first = remember(http, "Ada likes tea.", id="ada", tags=["tea"])
    body = {"content": "Zebras have stripes.", "id": "ada", "on_conflict": "replace"}
    replaced = answered(http.post("/memories", json=body))
    assert (replaced["content"], replaced["tags"]) == ("Zebras have stripes.", [])
    assert (replaced["version"], replaced["created_at"]) == (2, first["created_at"])
    remember(http, "A quiet evening.")
    assert search(http, "striped animals", mode="vector", limit=1) == ["ada"]


def test_two_memories_with_own_ids_may_have_the_same_content(http: Client) -> None:
    remember(http, "Ada likes tea.", id="a")
    remember(http, "Ada likes tea.", id="b")
    assert answered(http.get("/stats"))["memories"] == 2


def test_relations_that_are_given_with_a_memory_are_made(http: Client) -> None:
    remember(http, "Ada likes tea.", id="tea")
    relation = {"target": "tea", "relation_type": "CAUSES", "weight": 0.25}
    remember(http, "Ada bought a kettle.", id="kettle", relations=[relation])
    (related,) = answered(http.get("/memories/kettle/related"))["related"]
    assert related["memory"]["id"] == "tea"
    (path,) = related["path"]
    assert path.items() >= (relation | {"source": "kettle"}).items()


@pytest.mark.parametrize(
    ("relations", "says"),
    [
        ([{"target": "absent"}], "memories that are there, got 'absent'; remember those first"),
        ([{"target": "self"}], "a relation to another memory, got one from 'self' to itself"),
        ([{"target": "tea", "relation_type": "SUPERSEDES"}], "SUPERSEDES is made by"),
        ([{"target": "tea"}, {"target": "tea"}], "expected different relations"),
        ([{"target": "tea", "weight": 2}], "`$.relations[0].weight`"),
        ([{"target": "tea", "relation_type": "likes"}], "`$.relations[0].relation_type`"),
    ],
)
def test_a_relation_that_is_not_valid_keeps_the_memory_from_being_written(
    http: Client, relations: Any, says: str
) -> None:
    remember(http, "Ada likes tea.", id="tea")
    body = {"content": "Ada bought a kettle.", "id": "self", "relations": relations}
    assert says in refused(http.post("/memories", json=body), 422, "invalid_input")
    assert answered(http.get("/stats"))["memories"] == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"content": ""}, "`$.content`"),
        ({"content": None}, "`$.content`"),
        ({"importance": 1.5}, "`$.importance`"),
        ({"tags": ["a", ""]}, "`$.tags[1]`"),
        ({"tags": ["a"] * 65}, "`$.tags`"),
        ({"context": "/home"}, "`$.context`"),
        ({"id": "no spaces"}, "`$.id`"),
        ({"valid_from": "yesterday"}, "`$.valid_from`"),
        ({"expires_at": BEFORE}, "expected expires_at in the future"),
        ({"valid_from": LATER, "expires_at": "2099-01-01T00:00:00Z"}, "after valid_from"),
        ({"metadata": {"n": 2**64}}, "whole numbers of 64 bits"),
        ({"metadata": {"text": "x" * 20_000}}, "at most 16,384 bytes"),
        ({"tenant": "other"}, "unknown field `tenant`"),
    ],
)
def test_a_field_that_is_not_valid_is_named(
    http: Client, fields: dict[str, Any], says: str
) -> None:
    response = http.post("/memories", json={"content": "Ada likes tea."} | fields)
    assert says in refused(response, 422, "invalid_input")
    assert answered(http.get("/stats"))["memories"] == 0


def test_content_that_the_model_cannot_read_whole_is_refused(http: Client) -> None:
    response = http.post("/memories", json={"content": "tea " * 400})
    detail = refused(response, 422, "text_too_long")
    assert "256" in detail
    assert "truncate" in detail


def test_content_that_may_be_cut_is_kept_and_found_by_its_words_as_a_whole(http: Client) -> None:
    memory = remember(http, "tea " * 400 + "zeppelin", truncate=True)
    assert memory["truncated"]
    assert answered(http.get(f"/memories/{memory['id']}"))["content"].endswith("zeppelin")
    assert search(http, "zeppelin", mode="text") == [memory["id"]]


def test_a_time_without_a_zone_is_in_utc(http: Client) -> None:
    memory = remember(http, "Ada likes tea.", valid_from="2026-01-01T12:00:00")
    assert memory["valid_from"] == "2026-01-01T12:00:00Z"


def test_a_time_of_another_zone_becomes_utc(http: Client) -> None:
    memory = remember(http, "Ada likes tea.", valid_from="2026-01-01T12:00:00+02:00")
    assert memory["valid_from"] == "2026-01-01T10:00:00Z"


def test_a_memory_reads_as_it_stood_at_a_time(http: Client) -> None:
    old = remember(http, "Ada likes tea.", valid_from="2026-01-01T00:00:00Z")
    supersede(http, old["id"], "Ada likes coffee.", valid_from="2026-02-01T00:00:00Z")
    path = f"/memories/{old['id']}"
    assert answered(http.get(path, params={"as_of": "2026-01-15T00:00:00Z"}))["id"] == old["id"]
    for time in ("2025-12-31T00:00:00Z", "2026-02-01T00:00:00Z"):
        detail = refused(http.get(path, params={"as_of": time}), 404, "memory_not_found")
        assert "as of" in detail
    assert answered(http.get(path))["superseded_by"]


def test_changes_take_the_place_of_what_they_name_and_nothing_else(http: Client) -> None:
    first = remember(
        http,
        "Ada likes tea.",
        title="Drinks",
        tags=["tea"],
        metadata={"a": 1},
        context="home",
        user_id="ada",
        expires_at=LATER,
    )
    path = f"/memories/{first['id']}"
    changes = {"tags": ["b", "a"], "metadata": {"b": 2}, "importance": 0.9, "context": None}
    changed = answered(http.patch(path, json=changes | {"expires_at": None}))
    del first["duplicate"], first["truncated"]
    assert changed["updated_at"] > first["updated_at"]
    assert changed == first | changes | {
        "tags": ["a", "b"],
        "expires_at": None,
        "updated_at": changed["updated_at"],
        "version": 2,
    }
    assert answered(http.get(path)) == changed


@pytest.mark.parametrize("field", ["content", "title"])
def test_a_memory_is_found_by_its_changed_text(http: Client, field: str) -> None:
    memory = remember(http, "An ordinary note.", title="Untitled")
    remember(http, "A quiet evening at home.")
    path = f"/memories/{memory['id']}"
    answered(http.patch(path, json={field: "Zebras have black and white stripes."}))
    assert search(http, "striped animals", mode="vector", limit=1) == [memory["id"]]
    assert search(http, "zebra", mode="text") == [memory["id"]]


def test_a_memory_is_not_found_any_more_by_the_text_that_it_had(http: Client) -> None:
    memory = remember(http, "Zebras have stripes.")
    answered(http.patch(f"/memories/{memory['id']}", json={"content": "A quiet evening."}))
    assert search(http, "zebra", mode="text") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"content": None},
        {"content": ""},
        {"tags": None},
        {"user_id": "eve"},
        {"id": "other"},
        {"valid_from": BEFORE},
        {"expires_at": BEFORE},
        {"importance": "high"},
    ],
)
def test_a_change_that_is_not_valid_changes_nothing(http: Client, changes: Any) -> None:
    memory = remember(http, "Ada likes tea.")
    path = f"/memories/{memory['id']}"
    before = answered(http.get(path))
    assert next(iter(changes)) in refused(http.patch(path, json=changes), 422, "invalid_input")
    assert answered(http.get(path)) == before


def test_a_memory_that_is_not_there_cannot_be_changed(http: Client) -> None:
    refused(http.patch("/memories/nowhere", json={"importance": 1}), 404, "memory_not_found")


def test_changes_at_the_same_time_are_all_made(http: Client) -> None:
    memory = remember(http, "Ada likes tea.")
    changes: dict[str, Any] = {
        "title": "Drinks",
        "tags": ["tea"],
        "metadata": {"a": 1},
        "importance": 0.9,
        "context": "home",
    }
    path = f"/memories/{memory['id']}"
    with ThreadPoolExecutor(len(changes)) as clients:
        for response in clients.map(
            lambda change: http.patch(path, json=dict([change])), changes.items()
        ):
            answered(response)
    changed = answered(http.get(path))
    assert changed.items() >= changes.items()
    assert changed["version"] == 1 + len(changes)


def test_a_memory_is_forgotten_with_its_relations(http: Client) -> None:
    tea, kettle = (remember(http, f"Ada has {thing}.")["id"] for thing in ("tea", "a kettle"))
    relate(http, tea, kettle)
    counts = answered(http.delete(f"/memories/{tea}"))
    assert counts == {"memories": 1, "relations": 1, "dry_run": False}
    refused(http.get(f"/memories/{tea}"), 404, "memory_not_found")
    refused(http.delete(f"/memories/{tea}"), 404, "memory_not_found")
    assert answered(http.get(f"/memories/{kettle}/related")) == {"related": []}
    assert answered(http.get("/stats"))["relations"] == 0
