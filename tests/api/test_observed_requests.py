import json
import logging

import pytest

from tests.api.requests import Client
from tests.telemetry.log_lines import logged

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("given", ["a", "7f3c", "A-z_0.9~:/+=@", "x" * 128])
def test_a_request_keeps_its_own_id(client: Client, given: str) -> None:
    response = client.get("/health/live", headers={"X-Request-ID": given})
    assert response.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, 'a"b', "a\tb", "\xfc"])
def test_a_request_gets_an_id_where_its_own_is_missing_or_odd(client: Client, given: str) -> None:
    headers = [(b"X-Request-ID", given.encode("latin-1"))]
    ids = [client.get("/health/live", headers=headers).headers["x-request-id"] for _ in range(2)]
    assert all(len(id) == 32 and id.isalnum() for id in ids)
    assert ids[0] != ids[1]


def test_a_problem_names_its_request(client: Client) -> None:
    response = client.get("/memories/nobody", headers={"X-Request-ID": "mine"})
    assert response.json()["request_id"] == response.headers["x-request-id"] == "mine"


def test_an_unknown_path_has_an_id_too(client: Client) -> None:
    response = client.get("/nowhere")
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_memory_routes_say_where_their_time_went(client: Client) -> None:
    kept = client.post("/memories", json={"content": "Ada drinks tea."})
    found = client.post("/memories/search", json={"query": "Who drinks tea?"})
    for response in (kept, found):
        stages = [part.split(";")[0] for part in response.headers["server-timing"].split(", ")]
        assert stages == ["tokenization", "queue", "inference", "store", "tokens"]
    read = client.get(f"/memories/{kept.json()['id']}")
    assert read.headers["server-timing"].startswith("store;dur=")
    assert "server-timing" not in client.get("/health/live").headers


def test_a_request_is_one_line_in_the_log(client: Client) -> None:
    with logged("service.api") as lines:
        client.post("/v1/embeddings", json={"input": ["a", "b"]})
        client.get("/memories/secret-name")
        client.get("/elsewhere")
    assert "secret-name" not in lines()
    embedded, read, unknown = map(json.loads, lines().splitlines())
    assert (embedded["method"], embedded["route"]) == ("POST", "/v1/embeddings")
    assert (embedded["status"], embedded["texts"], embedded["tokens"]) == (200, 2, 10)
    assert (embedded["tenant"], embedded["client"]) == ("default", "testclient")
    assert embedded["duration_ms"] > 0
    assert (read["route"], read["status"]) == ("/memories/{id}", 404)
    assert read["problem"] == "memory_not_found"
    assert (unknown["route"], unknown["path"]) == ("unmatched", "/elsewhere")


def test_a_line_has_the_id_of_its_request_and_the_trace_that_it_comes_from(client: Client) -> None:
    headers = {"X-Request-ID": "mine", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    with logged("service.api") as lines:
        client.get("/tags", headers=headers)
    line = json.loads(lines())
    assert (line["request_id"], line["trace_id"]) == ("mine", TRACE)


def test_probes_and_scrapes_are_for_those_who_debug(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    quiet = ("/health", "/health/live", "/health/ready", "/metrics")
    for level in (logging.INFO, logging.DEBUG):
        with caplog.at_level(level, "service.api"):
            for path in quiet:
                client.get(path)
    lines = [record for record in caplog.records if record.message == "answered"]
    assert [record.levelno for record in lines] == [logging.DEBUG] * len(quiet)
