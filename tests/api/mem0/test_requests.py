"""The routes without the client; tests/clients/test_mem0.py has the client."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from litestar.handlers import HTTPRouteHandler

from service.api.mem0.answers import MEMORY_EXAMPLE
from service.api.mem0.not_served import NOT_SERVED
from service.app import ROUTES
from tests.api.requests import Client, answered, remember

EXAMPLE_ID = MEMORY_EXAMPLE["id"]

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda nested: (
        st.lists(nested, max_size=3)
        | st.dictionaries(
            st.sampled_from(["AND", "NOT", "user_id", "created_at", "metadata", "in", "gte", "x"]),
            nested,
            max_size=3,
        )
    ),
    max_leaves=8,
)
FIELDS = (
    *("messages", "user_id", "filters", "metadata", "timestamp", "expiration_date", "text"),
    *("query", "top_k", "threshold", "fields", "page", "page_size", "memories", "categories"),
)
WITH_BODY = [
    (method, path)
    for handlers in ROUTES.values()
    for handler in handlers
    if isinstance(handler, HTTPRouteHandler) and handler not in NOT_SERVED
    for method in handler.http_methods
    for path in sorted(handler.paths)
    if path.startswith("/mem0/v") and method in ("POST", "PUT")
]


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
def test_no_request_makes_the_service_fail(http: Client, method: str, path: str) -> None:
    path = path.replace("{id:str}", "a")

    @settings(max_examples=25)
    @given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
    def send(body: dict[str, Any]) -> None:
        answer = http.request(method, path, json=body)
        assert answer.status_code < 500 or answer.status_code == 501, (body, answer.text)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/json"
            assert set(answer.json()) == {"detail", "code"}

    send()


def test_every_route_that_is_served_is_documented(http: Client) -> None:
    served = {
        (method.lower(), path.replace(":str", ""))
        for handlers in ROUTES.values()
        for handler in handlers
        if isinstance(handler, HTTPRouteHandler) and handler not in NOT_SERVED
        for method in handler.http_methods
        for path in handler.paths
        if path.startswith("/mem0/")
    }
    paths = answered(http.get("/docs/openapi.json"))["paths"]
    assert served == {
        (method, path)
        for path, methods in paths.items()
        for method, described in methods.items()
        if described["tags"] == ["mem0"]
    }


def test_the_documented_answers_have_the_fields_of_real_ones(http: Client) -> None:
    body = {"messages": "I drink tea.", "user_id": "ada"}
    (memory,) = answered(http.post("/mem0/memories", json=body))["results"]
    paths = answered(http.get("/docs/openapi.json"))["paths"]
    in_order = sorted((path, methods) for path, methods in paths.items() if path[:6] == "/mem0/")
    for method in ("post", "put", "get"):
        for path, methods in in_order:
            if method not in methods or path == "/mem0/reset":
                continue
            described = methods[method]
            sent = None
            if "requestBody" in described:
                content = described["requestBody"]["content"]["application/json"]
                (sent,) = content["schema"]["examples"]
            real = answered(
                http.request(
                    method,
                    path.replace("{id}", memory["id"]),
                    json=json.loads(json.dumps(sent).replace(EXAMPLE_ID, memory["id"])),
                )
            )
            answer = described["responses"]["200"]["content"]["application/json"]
            (example,) = answer["examples"].values()
            assert first_fields(example["value"]) == first_fields(real), path


def first_fields(answer: Any) -> tuple[set[str], set[str]]:
    """Those of the answer, and those of the first that it holds, without what is null."""
    around = {} if isinstance(answer, list) else answer
    first, *_ = answer if isinstance(answer, list) else answer.get("results", [{}])
    return not_null(around), not_null(first)


def not_null(fields: dict[str, Any]) -> set[str]:
    return {name for name, value in fields.items() if value is not None}


def test_what_others_keep_is_shown_with_texts_only_where_mem0_has_texts(http: Client) -> None:
    memory = remember(http, "I drink tea.", metadata={"role": 7, "app_id": ["desk"]})
    shown = answered(http.get(f"/mem0/v1/memories/{memory['id']}/"))
    assert (shown["role"], shown["app_id"]) == (None, None)


def test_only_the_fields_that_are_asked_for_are_shown(http: Client) -> None:
    answered(http.post("/mem0/memories", json={"messages": "tea", "user_id": "ada"}))
    asked = {"filters": {"user_id": "ada"}, "fields": ["memory", "run_id"]}
    (shown,) = answered(http.post("/mem0/v3/memories/", json=asked))["results"]
    assert set(shown) == {"id", "memory", "run_id"}


def test_filters_spare_others_from_being_deleted_with_everything(http: Client) -> None:
    answered(http.post("/mem0/memories", json={"messages": "tea", "user_id": "ada"}))
    everything = dict.fromkeys(("user_id", "agent_id", "app_id", "run_id"), "*")
    answered(http.delete("/mem0/memories", params={**everything, "filters": '{"mood": "bad"}'}))
    assert len(answered(http.get("/mem0/memories"))["results"]) == 1
    answered(http.delete("/mem0/memories", params=everything))
    assert answered(http.get("/mem0/memories"))["results"] == []


@pytest.mark.parametrize("query", ["user_ids=ada", "page_size=0", "user_id=", "show_expired=2"])
def test_a_query_that_is_not_known_is_refused(http: Client, query: str) -> None:
    for method in ("get", "delete"):
        refused = http.request(method, f"/mem0/v1/memories/?run_id=monday&{query}")
        assert refused.status_code == 422, refused.text


def test_the_tenant_is_the_project(http: Client) -> None:
    ping = answered(http.get("/mem0/v1/ping/"))
    assert ping["status"] == "ok"
    assert ping["project_id"] == ping["org_id"] != ""


def test_a_memory_outlives_its_first_version(http: Client) -> None:
    body = {"messages": "I drink tea.", "user_id": "ada"}
    (memory,) = answered(http.post("/mem0/memories", json=body))["results"]
    path = f"/mem0/memories/{memory['id']}"
    answered(http.put(path, json={"text": "I drink rum."}))
    answered(http.delete(f"/memories/{memory['id']}"))
    assert answered(http.get(path))["memory"] == "I drink rum."
    answered(http.delete(path))
    assert http.get(path).json()["code"] == "memory_not_found"


@pytest.mark.parametrize("filters", ['{"user_id": "ada"}', "{'user_id': 'ada'}"])
def test_filters_in_a_query_are_json_or_what_python_writes(http: Client, filters: str) -> None:
    for user in ("ada", "bob"):
        answered(http.post("/mem0/memories", json={"messages": "tea", "user_id": user}))
    answered(http.delete("/mem0/v1/memories/", params={"filters": filters}))
    (left,) = answered(http.get("/mem0/memories"))["results"]
    assert left["user_id"] == "bob"
    refused = http.delete("/mem0/v1/memories/", params={"filters": "__import__('os')"})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_filter")
