import json

from tests.api.requests import Client, answered, relate, remember, supersede


def test_tags_are_counted_the_most_frequent_first(http: Client) -> None:
    remember(http, "a", tags=["tea", "home"])
    remember(http, "b", tags=["tea", "away"])
    assert answered(http.get("/tags")) == {
        "tags": [
            {"name": "tea", "memories": 2},
            {"name": "away", "memories": 1},
            {"name": "home", "memories": 1},
        ]
    }


def test_contexts_are_counted_the_most_frequent_first(http: Client) -> None:
    for content, context in (("a", "work"), ("b", "home/kitchen"), ("c", "home/kitchen")):
        remember(http, content, context=context)
    remember(http, "d")
    assert answered(http.get("/contexts")) == {
        "contexts": [
            {"name": "home/kitchen", "memories": 2},
            {"name": "work", "memories": 1},
        ]
    }


def test_counts_are_of_what_passes_the_filter_and_is_valid_at_the_time(http: Client) -> None:
    fields = {"tags": ["tea"], "context": "home", "user_id": "ada"}
    old = remember(http, "Ada likes tea.", **fields)
    supersede(http, old["id"], "Ada likes coffee.", tags=["coffee"], context="work")
    remember(http, "Bob likes milk.", tags=["milk"], context="away", user_id="bob")
    of_ada = {"filter": json.dumps({"user_id": "ada"})}
    for path, now, then in (("/tags", "coffee", "tea"), ("/contexts", "work", "home")):
        (counts,) = answered(http.get(path, params=of_ada)).values()
        assert counts == [{"name": now, "memories": 1}]
        at_first = of_ada | {"as_of": old["valid_from"]}
        (counts,) = answered(http.get(path, params=at_first)).values()
        assert counts == [{"name": then, "memories": 1}]


def test_a_tag_that_no_memory_has_any_more_is_gone(http: Client) -> None:
    memory = remember(http, "Ada likes tea.", tags=["tea"], context="home")
    answered(http.patch(f"/memories/{memory['id']}", json={"tags": [], "context": None}))
    assert answered(http.get("/tags")) == {"tags": []}
    assert answered(http.get("/contexts")) == {"contexts": []}


def test_stats_count_everything_that_is_there(http: Client) -> None:
    assert set(answered(http.get("/stats")).values()) == {0}
    remember(http, "a", id="a", tags=["x", "y"], context="home", user_id="ada", agent_id="butler")
    remember(http, "b", id="b", tags=["x"], user_id="bob", session_id="monday")
    relate(http, "a", "b")
    supersede(http, "b", "c")
    assert answered(http.get("/stats")) == {
        "memories": 3,
        "current": 2,
        "relations": 1,
        "tags": 2,
        "contexts": 1,
        "users": 2,
        "agents": 1,
        "sessions": 1,
    }


def test_a_session_is_forgotten_as_a_whole(http: Client) -> None:
    remember(http, "a", id="a", session_id="monday")
    remember(http, "b", id="b", session_id="monday")
    remember(http, "c", id="c", session_id="tuesday")
    relate(http, "a", "b")
    relate(http, "b", "c")
    supersede(http, "a", "d", id="d")
    counts = answered(http.delete("/sessions/monday"))
    assert counts == {"memories": 3, "relations": 2, "dry_run": False}
    assert [memory["id"] for memory in answered(http.get("/memories"))["memories"]] == ["c"]
    assert answered(http.delete("/sessions/monday"))["memories"] == 0


def test_a_user_is_forgotten_in_all_sessions(http: Client) -> None:
    for session in ("monday", "tuesday"):
        remember(http, "a", user_id="ada", session_id=session)
        remember(http, "a", user_id="bob", session_id=session)
    assert answered(http.delete("/users/ada"))["memories"] == 2
    stats = answered(http.get("/stats"))
    assert (stats["memories"], stats["users"], stats["sessions"]) == (2, 1, 2)


def test_what_a_forgotten_session_superseded_in_another_is_valid_again(http: Client) -> None:
    remember(http, "Ada likes tea.", id="first", session_id="monday")
    tuesday = {"content": "Ada likes coffee.", "id": "second", "session_id": "tuesday"}
    export = [json.loads(line) for line in http.get("/export").text.splitlines()]
    first = next(line for line in export if line["type"] == "memory")
    second = first | tuesday | {"valid_from": "2100-01-01T00:00:00Z", "supersedes": "first"}
    link = {
        "type": "relation",
        "source": "second",
        "target": "first",
        "relation_type": "SUPERSEDES",
        "weight": 1,
        "created_at": first["created_at"],
    }
    closed = first | {"valid_to": second["valid_from"], "superseded_by": "second", "version": 2}
    lines = "\n".join(json.dumps(line) for line in (closed, second, link))
    http.post("/import", content=lines)
    assert answered(http.get("/memories/first"))["superseded_by"] == "second"
    answered(http.delete("/sessions/tuesday"))
    repaired = answered(http.get("/memories/first"))
    assert (repaired["superseded_by"], repaired["valid_to"]) == (None, None)


def test_a_scope_that_was_never_there_is_forgotten_without_effect(http: Client) -> None:
    remember(http, "Ada likes tea.", user_id="ada")
    for path in ("/users/bob", "/sessions/ada", "/users/a%22%20OR%201=1"):
        counts = answered(http.delete(path))
        assert counts == {"memories": 0, "relations": 0, "dry_run": False}
    assert answered(http.get("/stats"))["memories"] == 1
