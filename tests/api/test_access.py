import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import pytest
from litestar import Litestar
from litestar.datastructures import Headers
from litestar.handlers import HTTPRouteHandler
from litestar.testing import TestClient

from service.api.access import Access, identify_without_keys
from service.api.cors import cors_of
from service.app import ROUTES
from service.errors import Forbidden
from service.keys import Scope
from tests.api.requests import Client, answered, created, refused, remember, search
from tests.memory.memories import unique_tenant

# A request to a route of each scope.
REQUESTS: dict[Scope, tuple[str, str, Any]] = {
    "embed": ("POST", "/v1/embeddings", {"input": "tea"}),
    "read": ("GET", "/memories", None),
    "write": ("POST", "/memories", {"content": "Ada drinks tea."}),
}


def requests_of(access: Access) -> Iterator[tuple[str, str]]:
    for handler in ROUTES[access]:
        methods = handler.http_methods if isinstance(handler, HTTPRouteHandler) else {"POST"}
        for method in sorted(methods):
            for path in sorted(handler.paths):
                yield method, re.sub(r"{\w+:\w+}", "a", path)


GUARDED = [
    request for access in get_args(Access) if access != "nothing" for request in requests_of(access)
]


@pytest.fixture
def anonymous(http: Client) -> Client:
    del http.headers["Authorization"]
    return http


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_a_route_wants_a_key_before_it_looks_at_anything_else(
    anonymous: Client, method: str, path: str
) -> None:
    response = anonymous.request(method, path, content=b"{" * 100)
    assert response.status_code == 401, response.text
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "expected an API key, got none" in response.text


@pytest.mark.parametrize(("method", "path"), [*requests_of("nothing"), ("GET", "/docs")])
def test_health_and_documentation_are_open(anonymous: Client, method: str, path: str) -> None:
    assert anonymous.request(method, path).status_code == 200


@pytest.mark.parametrize("scope", REQUESTS)
def test_a_key_does_what_its_scope_says_and_nothing_else(http: Client, scope: Scope) -> None:
    for other in REQUESTS:
        http.enter(unique_tenant(), other)
        method, path, body = REQUESTS[scope]
        response = http.request(method, path, json=body)
        if other == scope:
            assert response.status_code in (200, 201), response.text
        else:
            assert response.status_code == 403
            assert f"expected a key with the scope {scope}, got one with {other}" in response.text


def test_a_refusal_under_v1_has_openais_shape(anonymous: Client) -> None:
    error = anonymous.post("/v1/embeddings", json={"input": "tea"}).json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    anonymous.enter(unique_tenant(), "read")
    error = anonymous.post("/v1/embeddings", json={"input": "tea"}).json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "forbidden")


def test_every_way_to_send_a_key_is_taken(http: Client) -> None:
    key = http.headers.pop("Authorization").removeprefix("Bearer ")
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"authorization": f"bearer {key}"},
        {"Authorization": f"Token {key}"},
        {"Authorization": key},
        {"X-API-Key": key},
        {"Authorization": "Basic YTpi", "X-API-Key": key},
    ):
        assert http.get("/memories", headers=headers).status_code == 200
    for headers in (
        {"Authorization": f"Basic {key}"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"X-API-Key": f"Bearer {key}"},
        {"Authorization": f"Bearer {key}, Bearer {key}"},
    ):
        assert http.get("/memories", headers=headers).status_code == 401


def test_requests_of_a_minute_are_limited_for_each_key(http: Client) -> None:
    tenant = unique_tenant()
    http.enter(tenant, requests_per_minute=3)
    for _ in range(3):
        answered(http.get("/memories"))
    response = http.get("/memories")
    assert "at most 3 requests a minute" in refused(response, 429, "rate_limited")
    assert 18 <= int(response.headers["Retry-After"]) <= 20
    assert http.get("/health/live").status_code == 200
    http.enter(tenant, requests_per_minute=3)
    answered(http.get("/memories"))


def test_tokens_of_a_minute_are_limited_for_each_key(http: Client) -> None:
    http.enter(unique_tenant(), tokens_per_minute=30)
    remember(http, "word " * 22)
    for response in (
        http.post("/memories", json={"content": "word " * 22}),
        http.post("/memories/search", json={"query": "word " * 22}),
    ):
        assert "at most 30 tokens a minute" in refused(response, 429, "rate_limited")
        assert int(response.headers["Retry-After"]) >= 1
    error = http.post("/v1/embeddings", json={"input": ["word " * 10] * 2}).json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limited")
    answered(http.get("/memories"))
    answered(http.post("/v1/embeddings", json={"input": "a"}))


def test_memories_are_limited(http: Client) -> None:
    http.enter(unique_tenant(), max_memories=3)
    remember(http, "Ada drinks tea.", id="a")
    body = {"memories": [{"content": "one"}, {"content": "two"}, {"content": "three"}]}
    response = http.post("/memories/batch", json=body)
    assert "got 3 more than the 1" in refused(response, 403, "memory_limit_reached")
    assert answered(http.get("/stats"))["memories"] == 1
    body["memories"].pop()
    answered(http.post("/memories/batch", json=body))
    successor = {"content": "Ada drinks coffee."}
    refused(http.post("/memories/a/supersede", json=successor), 403, "memory_limit_reached")
    refused(http.post("/memories", json={"content": "four"}), 403, "memory_limit_reached")
    replaced = {"content": "Ada drinks milk.", "id": "a", "on_conflict": "replace"}
    answered(http.post("/memories", json=replaced))
    answered(http.delete("/memories/a"))
    created(http.post("/memories", json={"content": "four"}))


def test_of_requests_at_the_same_time_no_more_are_kept_than_allowed(http: Client) -> None:
    http.enter(unique_tenant(), max_memories=5)
    with ThreadPoolExecutor(8) as clients:
        statuses = list(
            clients.map(
                lambda number: (
                    http.post("/memories", json={"content": f"note {number}"}).status_code
                ),
                range(16),
            )
        )
    kept = answered(http.get("/stats"))["memories"]
    assert 0 < kept == statuses.count(201) <= 5
    assert set(statuses) == {201, 403}


def test_an_import_ends_where_there_may_be_no_more_memories(http: Client) -> None:
    for number in range(4):
        remember(http, f"note {number}", id=f"n{number}")
    dump = http.get("/export", params={"embeddings": True}).content
    http.enter(unique_tenant(), max_memories=3)
    last = http.post("/import", content=dump).text.splitlines()[-1]
    assert '"code":"memory_limit_reached"' in last
    http.enter(unique_tenant(), max_memories=4)
    for _ in range(2):
        assert '"done":true' in http.post("/import", content=dump).text


def test_another_tenant_is_dumped_and_loaded_by_admins_only(http: Client) -> None:
    one, other = unique_tenant(), unique_tenant()
    http.enter(one)
    remember(http, "Ada drinks tea.", id="a")
    dump = http.get("/export").content
    http.enter(other, "read", "write")
    for response in (
        http.get("/export", params={"tenant": one}),
        http.post("/import", params={"tenant": one}, content=dump),
    ):
        assert "the scope admin" in refused(response, 403, "forbidden")
    answered(http.get("/export", params={"tenant": other}))
    http.enter(other)
    assert b"Ada drinks tea." in http.get("/export", params={"tenant": one}).content
    third = unique_tenant()
    assert '"done":true' in http.post("/import", params={"tenant": third}, content=dump).text
    assert http.get("/export", params={"tenant": third}).text.splitlines()[1:]
    assert search(http, "tea") == []
    http.enter(third)
    assert search(http, "tea") == ["a"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "127.0.0.1:8080"},
        {"Host": "[::1]:8080"},
        {"Host": "LOCALHOST"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://127.0.0.1"},
    ],
)
def test_without_keys_this_machine_may_do_everything(
    client: TestClient[Litestar], headers: dict[str, str]
) -> None:
    assert client.get("/memories", headers=headers).status_code == 200
    assert client.get("/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example:8080"},
        {"Host": "localhost.example"},
        {"Host": "127.0.0.1.example"},
        {"Host": "[::1"},
        {"Host": "10.0.0.1"},
        {"Origin": "https://page.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.example"},
    ],
)
def test_without_keys_no_page_of_elsewhere_may_do_anything(
    client: TestClient[Litestar], headers: dict[str, str]
) -> None:
    for response in (
        client.get("/memories", headers=headers),
        client.post("/import", content=b"", headers=headers),
        client.post("/v1/embeddings", json={"input": "tea"}, headers=headers),
    ):
        assert response.status_code == 403
        assert "without API keys only http://localhost is served" in response.text
    assert client.get("/health/live", headers=headers).status_code == 200


def test_without_keys_a_page_may_whose_origin_is_set() -> None:
    identify = identify_without_keys(cors_of("https://page.example"))
    headers = {"host": "localhost", "origin": "https://page.example"}
    assert identify(Headers(headers)).tenant == "default"
    with pytest.raises(Forbidden):
        identify(Headers(headers | {"origin": "https://other.example"}))


def test_with_keys_the_name_of_the_machine_does_not_matter(http: Client) -> None:
    headers = {"Host": "memory.example", "Origin": "https://page.example"}
    assert http.get("/memories", headers=headers).status_code == 200
