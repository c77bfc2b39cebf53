from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api.requests import Client, answered, created, refused, remember

KEY = {"Idempotency-Key": "8e03978e"}
MEMORY = {"content": "Ada likes tea."}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/memories", MEMORY),
        ("/memories", MEMORY | {"id": "own"}),
        ("/memories/batch", {"memories": [MEMORY, MEMORY, {"content": "Ada has a kettle."}]}),
        ("/memories/old/supersede", MEMORY),
    ],
)
def test_a_repeated_request_is_answered_and_not_carried_out(
    http: Client, path: str, body: Any
) -> None:
    remember(http, "Ada likes coffee.", id="old")
    first = http.post(path, json=body, headers=KEY)
    stats = answered(http.get("/stats"))
    again = http.post(path, json=body, headers=KEY)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers.get("location") == first.headers.get("location")
    assert answered(http.get("/stats")) == stats


def test_a_repeated_request_is_answered_as_before_whatever_became_of_the_memory(
    http: Client,
) -> None:
    first = created(http.post("/memories", json=MEMORY, headers=KEY))
    answered(http.delete(f"/memories/{first['id']}"))
    assert created(http.post("/memories", json=MEMORY, headers=KEY)) == first
    refused(http.get(f"/memories/{first['id']}"), 404, "memory_not_found")


def test_a_refusal_is_repeated_too(http: Client) -> None:
    remember(http, "Ada likes coffee.", id="own")
    body = MEMORY | {"id": "own"}
    refused(http.post("/memories", json=body, headers=KEY), 409, "conflict")
    answered(http.delete("/memories/own"))
    refused(http.post("/memories", json=body, headers=KEY), 409, "conflict")


def test_a_request_that_is_not_valid_does_not_use_up_its_key(http: Client) -> None:
    refused(http.post("/memories", json={"content": ""}, headers=KEY), 422, "invalid_input")
    created(http.post("/memories", json=MEMORY, headers=KEY))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/memories", {"content": "Ada likes coffee."}),
        ("/memories", MEMORY | {"tags": ["tea"]}),
        ("/memories/batch", {"memories": [MEMORY]}),
        ("/memories/old/supersede", MEMORY),
    ],
)
def test_a_key_is_good_for_one_request_only(http: Client, path: str, body: Any) -> None:
    remember(http, "Ada likes milk.", id="old")
    created(http.post("/memories", json=MEMORY, headers=KEY))
    response = http.post(path, json=body, headers=KEY)
    assert "8e03978e" in refused(response, 422, "idempotency_key_reused")
    assert answered(http.get("/stats"))["memories"] == 2


def test_a_key_for_one_memory_is_not_good_for_superseding_another(http: Client) -> None:
    for id in ("a", "b"):
        remember(http, f"Ada has {id}.", id=id)
    created(http.post("/memories/a/supersede", json=MEMORY, headers=KEY))
    response = http.post("/memories/b/supersede", json=MEMORY, headers=KEY)
    refused(response, 422, "idempotency_key_reused")


def test_the_same_request_at_the_same_time_is_carried_out_once(http: Client) -> None:
    body = {"memories": [{"content": "Ada likes tea.", "user_id": "ada"}, {"content": "Tea."}]}
    with ThreadPoolExecutor(8) as clients:
        responses = list(
            clients.map(
                lambda _: http.post("/memories/batch", json=body, headers=KEY),
                range(8),
            )
        )
    results = [answered(response) for response in responses]
    assert results.count(results[0]) == 8
    assert results[0]["counts"] == {"created": 2}
    assert answered(http.get("/stats"))["memories"] == 2


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_not_one_is_refused(http: Client, key: str) -> None:
    response = http.post("/memories", json=MEMORY, headers={"Idempotency-Key": key})
    assert refused(response, 400, "bad_request").startswith("header idempotency-key: ")
    assert answered(http.get("/stats"))["memories"] == 0
