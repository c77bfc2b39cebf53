from concurrent.futures import ThreadPoolExecutor

from tests.api.requests import Client, answered, created, refused, remember, search, supersede

BEFORE = "2020-01-01T00:00:00Z"
LATER = "2100-01-01T00:00:00Z"


def test_a_superseded_memory_is_closed_and_linked(http: Client) -> None:
    old = remember(http, "Ada likes tea.", tags=["drinks"], user_id="ada", importance=0.9)
    response = http.post(
        f"/memories/{old['id']}/supersede", json={"content": "Ada likes coffee.", "importance": 1}
    )
    new = created(response)
    assert response.headers["location"] == f"/memories/{new['id']}"
    assert (new["supersedes"], new["version"], new["importance"]) == (old["id"], 1, 1)
    assert (new["tags"], new["user_id"]) == (["drinks"], "ada")
    closed = answered(http.get(f"/memories/{old['id']}"))
    assert (closed["superseded_by"], closed["valid_to"]) == (new["id"], new["valid_from"])


def test_what_is_null_in_a_successor_is_not_taken_over(http: Client) -> None:
    old = remember(http, "Ada likes tea.", title="Drinks", context="home", expires_at=LATER)
    new = supersede(http, old["id"], "Ada likes coffee.", title=None)
    assert (new["title"], new["context"]) == (None, "home")


def test_a_superseded_memory_is_found_only_as_of_its_time(http: Client) -> None:
    old = remember(http, "Ada likes tea.")
    new = supersede(http, old["id"], "Ada likes coffee.")
    assert search(http, "What does Ada like?") == [new["id"]]
    assert search(http, "What does Ada like?", as_of=old["valid_from"]) == [old["id"]]


def test_the_history_of_each_memory_of_a_chain_is_the_whole_chain(http: Client) -> None:
    first = remember(http, "Ada likes tea.", id="first")
    second = supersede(http, "first", "Ada likes coffee.", id="second")
    supersede(http, "second", "Ada likes water.", id="third")
    for id in ("first", "second", "third"):
        history = answered(http.get(f"/memories/{id}/history"))["memories"]
        assert [memory["id"] for memory in history] == ["first", "second", "third"]
    known = answered(http.get("/memories/first/history", params={"as_of": second["valid_from"]}))
    assert [memory["id"] for memory in known["memories"]] == ["first", "second"]
    earlier = http.get("/memories/first/history", params={"as_of": BEFORE})
    refused(earlier, 404, "memory_not_found")
    assert first["valid_from"] < second["valid_from"]


def test_a_memory_without_supersession_is_its_own_history(http: Client) -> None:
    memory = remember(http, "Ada likes tea.")
    history = answered(http.get(f"/memories/{memory['id']}/history"))["memories"]
    assert [each["id"] for each in history] == [memory["id"]]
    refused(http.get("/memories/nowhere/history"), 404, "memory_not_found")


def test_a_memory_is_superseded_once(http: Client) -> None:
    remember(http, "Ada likes tea.", id="tea")
    supersede(http, "tea", "Ada likes coffee.", id="coffee")
    response = http.post("/memories/tea/supersede", json={"content": "Ada likes water."})
    assert "supersede its successor, 'coffee'" in refused(response, 409, "conflict")


def test_of_successors_at_the_same_time_one_wins(http: Client) -> None:
    remember(http, "Ada likes tea.", id="tea")
    with ThreadPoolExecutor(6) as clients:
        responses = list(
            clients.map(
                lambda number: http.post(
                    "/memories/tea/supersede", json={"content": f"Ada likes drink {number}."}
                ),
                range(6),
            )
        )
    assert sorted(response.status_code for response in responses) == [201] + [409] * 5
    assert answered(http.get("/stats"))["memories"] == 2


def test_a_memory_that_is_not_there_cannot_be_superseded(http: Client) -> None:
    response = http.post("/memories/nowhere/supersede", json={"content": "Ada likes tea."})
    refused(response, 404, "memory_not_found")


def test_a_successor_does_not_begin_before_what_it_supersedes(http: Client) -> None:
    old = remember(http, "Ada likes tea.")
    body = {"content": "Ada likes coffee.", "valid_from": BEFORE}
    response = http.post(f"/memories/{old['id']}/supersede", json=body)
    assert old["valid_from"][:19] in refused(response, 422, "invalid_input")


def test_a_successor_cannot_have_the_id_of_another_memory(http: Client) -> None:
    remember(http, "Ada likes tea.", id="tea")
    remember(http, "Ada likes milk.", id="milk")
    for id in ("milk", "tea"):
        body = {"content": "Ada likes coffee.", "id": id}
        refused(http.post("/memories/tea/supersede", json=body), 409, "conflict")
    assert answered(http.get("/memories/tea"))["superseded_by"] is None


def test_forgetting_the_successor_makes_its_predecessor_valid_again(http: Client) -> None:
    remember(http, "Ada likes tea.", id="first")
    supersede(http, "first", "Ada likes coffee.", id="second")
    third = supersede(http, "second", "Ada likes water.", id="third")
    answered(http.delete("/memories/second"))
    first = answered(http.get("/memories/first"))
    assert (first["superseded_by"], first["valid_to"]) == ("third", third["valid_from"])
    assert answered(http.get("/memories/third"))["supersedes"] == "first"
    answered(http.delete("/memories/third"))
    first = answered(http.get("/memories/first"))
    assert (first["superseded_by"], first["valid_to"]) == (None, None)
    assert search(http, "What does Ada like?") == ["first"]


def test_superseding_again_with_the_same_own_id_changes_nothing(http: Client) -> None:
    remember(http, "Ada likes tea.", id="tea")
    body = {"id": "coffee", "content": "Ada likes coffee."}
    new = created(http.post("/memories/tea/supersede", json=body))
    again = http.post("/memories/tea/supersede", json=body)
    assert again.status_code == 200
    assert again.json() == new


def test_a_memory_that_is_there_already_cannot_become_a_successor(http: Client) -> None:
    remember(http, "Ada likes tea.", id="tea")
    remember(http, "Ada likes coffee.", id="coffee")
    for id, content in (("coffee", "Ada likes coffee."), ("tea", "Ada likes tea.")):
        response = http.post("/memories/tea/supersede", json={"id": id, "content": content})
        assert "does not supersede 'tea'" in refused(response, 409, "conflict")
    assert answered(http.get("/memories/tea"))["superseded_by"] is None
