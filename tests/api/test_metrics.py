import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.requests import Client, answered, remember, serving
from tests.telemetry.exposition import scrape
from tests.telemetry.log_lines import logged


@pytest.fixture(scope="module")
def client(prompted_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service of its own, whose counts are those of these tests."""
    path = tmp_path_factory.mktemp("store") / "memory.db"
    with serving(prompted_bundle, f"sqlite:///{path}", cache_bytes=10**6) as client:
        yield client


def test_routes_are_counted_as_declared(client: Client) -> None:
    for path in ("/memories/1", "/memories/2", "/memories/2/history"):
        client.get(path)
    for number in range(20):
        client.get(f"/nowhere/{number}")
        client.request(f"METHOD{number}", f"/memories/{number}")
        client.request(f"METHOD{number}", "/mcp")
    after = scrape(client)
    labels = after.labels("memory_requests_total")
    assert {each["route"] for each in labels} >= {"/memories/{id}", "/memories/{id}/history"}
    assert not [each for each in labels if each["route"].startswith("/nowhere")]
    assert {each["method"] for each in labels} <= {"GET", "POST", "PATCH", "DELETE", "*"}
    assert after.total("memory_requests_total", route="unmatched", status="404") >= 20
    assert after.total("memory_requests_total", route="unmatched", status="405") == 20


def test_what_is_embedded_adds_up(client: Client) -> None:
    before = scrape(client)
    answers = [
        answered(client.post("/v1/embeddings", json={"input": texts, "truncate": True}))
        for texts in (["one"], ["two", "three words here"], ["word " * 1_000, "four", "one"])
    ]
    after = scrape(client)

    def rise(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    tokens = sum(answer["usage"]["prompt_tokens"] for answer in answers)
    assert rise("memory_embedded_tokens_total") == tokens
    assert rise("memory_embedded_texts_total") == 6
    assert rise("memory_truncated_texts_total") == 1
    assert (rise("memory_cache_hits_total"), rise("memory_cache_misses_total")) == (1, 5)
    assert rise("memory_batch_texts_sum") == 5
    kept = answers[0]["usage"]["prompt_tokens"]
    assert rise("memory_batch_tokens_sum") == tokens - kept
    for stage in ("tokenization", "queue", "inference"):
        assert rise("memory_embedding_stage_seconds_count", stage=stage) == 3


def test_refusals_are_counted_by_code(client: Client) -> None:
    before = scrape(client)
    client.post("/v1/embeddings", json={"input": []})
    client.post("/v1/embeddings", json={"input": "word " * 1_000})
    client.post("/memories", json={})
    after = scrape(client)
    rises = {
        labels["code"]: after.total("memory_problems_total", **labels)
        - before.total("memory_problems_total", **labels)
        for labels in after.labels("memory_problems_total")
    }
    assert {code: rise for code, rise in rises.items() if rise} == {
        "empty_input": 1,
        "text_too_long": 1,
        "invalid_input": 1,
    }


def test_an_import_that_breaks_off_is_counted_though_it_had_begun_to_be_answered(
    client: Client,
) -> None:
    before = scrape(client)
    with logged("service.api") as lines:
        response = client.post("/import", content=b"no dump\n")
    assert response.status_code == 200
    after = scrape(client)
    name, code = "memory_problems_total", "invalid_input"
    assert json.loads(response.text.splitlines()[-1])["error"]["code"] == code
    assert after.total(name, code=code) - before.total(name, code=code) == 1
    assert json.loads(lines())["problem"] == code


def test_what_the_store_does_is_counted_by_operation(client: Client) -> None:
    before = scrape(client)
    remember(client, "Ada drinks water.")
    client.get("/memories/nobody")
    after = scrape(client)
    for operation, calls in (("remember", 1), ("get", 1), ("delete", 0)):
        name = "memory_store_operation_seconds_count"
        rise = after.total(name, operation=operation) - before.total(name, operation=operation)
        assert rise == calls


def test_the_model_and_the_queue_are_among_the_metrics(client: Client) -> None:
    metrics = scrape(client)
    (model,) = metrics.labels("memory_model_info")
    assert (model["model"], model["precision"], model["dimensions"]) == ("prompted", "int8", "384")
    assert metrics.total("memory_queued_tokens") == 0
    assert metrics.total("memory_max_queued_tokens") == 524_288
    assert metrics.total("memory_workers_alive") == metrics.total("memory_workers") >= 1
    assert metrics.total("process_resident_memory_bytes") > 10**7


def test_openmetrics_is_there_for_those_who_accept_it(client: Client) -> None:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    response = client.get("/metrics", headers=accept)
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0")
    assert response.text.endswith("# EOF\n")


def test_the_metrics_have_prometheus_names_and_say_what_they_are(client: Client) -> None:
    for family in scrape(client).families:
        assert family.documentation
        if family.name.startswith("memory_") and family.type == "counter":
            assert {sample.name for sample in family.samples} <= {f"{family.name}_total"}
