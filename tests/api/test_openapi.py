import json
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from service.api.memory_schemas import MEMORY_EXAMPLE
from tests.api.requests import Client, answered, relate, remember, supersede

# Every route of memories, and a path under which it can be called in the service of `filled`.
ROUTES = {
    ("post", "/memories"): "/memories",
    ("get", "/memories"): "/memories?limit=1",
    ("post", "/memories/batch"): "/memories/batch",
    ("post", "/memories/delete"): "/memories/delete",
    ("post", "/memories/search"): "/memories/search",
    ("get", "/memories/{id}"): "/memories/tea",
    ("patch", "/memories/{id}"): "/memories/tea",
    ("post", "/memories/{id}/supersede"): "/memories/tea/supersede",
    ("get", "/memories/{id}/history"): "/memories/tea/history",
    ("get", "/memories/{id}/related"): "/memories/tea/related",
    ("delete", "/memories/{id}"): "/memories/milk",
    ("post", "/recall"): "/recall",
    ("post", "/relations"): "/relations",
    ("delete", "/relations"): "/relations?source=tea&target=kettle",
    ("get", "/tags"): "/tags",
    ("get", "/contexts"): "/contexts",
    ("get", "/stats"): "/stats",
    ("delete", "/sessions/{id}"): "/sessions/monday",
    ("delete", "/users/{id}"): "/users/bob",
    ("get", "/export"): "/export",
    ("post", "/import"): "/import",
}
OTHER_TAGS = {
    "cohere",
    "embeddings",
    "health",
    "info",
    "mem0",
    "models",
    "text-embeddings-inference",
}
NULLS = {name for name, value in MEMORY_EXAMPLE.items() if value is None} | {"error"}
WITH_BODY = [
    route for route in ROUTES if route[0] in ("post", "patch") and route != ("post", "/import")
]


@pytest.fixture
def filled(http: Client) -> Client:
    """Memories that the examples find, or refer to."""
    remember(http, "Ada drinks tea.", id="tea", tags=["drinks"], context="home", user_id="ada")
    remember(http, "Ada has a kettle.", id="kettle")
    remember(http, "Bob drinks milk.", id="milk")
    example = operation(http, ("post", "/relations"))
    (request,) = body_examples(example)
    for end in ("source", "target"):
        remember(http, f"the {end} of the example", id=request[end], importance=0.9)
    relate(http, "tea", "kettle")
    return http


def operation(http: Client, route: tuple[str, str]) -> Any:
    method, path = route
    return answered(http.get("/docs/openapi.json"))["paths"][path][method]


def body_examples(of: Any) -> list[Any]:
    examples: list[Any] = of["requestBody"]["content"]["application/json"]["schema"]["examples"]
    return examples


def agree(example: Any, real: Any) -> bool:
    """Whether the fields are the same, in depth; of lists, those of the first items.

    Those that the examples have as null are not in the document.
    """
    match example, real:
        case dict(), dict():
            return example.keys() <= real.keys() <= example.keys() | NULLS and all(
                agree(example[name], real[name]) for name in example if name != "metadata"
            )
        case [first, *_], [second, *_]:
            return agree(first, second)
        case _:
            return True


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_says_what_it_does(http: Client, route: tuple[str, str]) -> None:
    described = operation(http, route)
    assert described["summary"]
    assert described["description"]
    assert {"404", "409", "422", "429", "503"} <= described["responses"].keys()


def test_every_route_of_memories_is_documented(http: Client) -> None:
    paths = answered(http.get("/docs/openapi.json"))["paths"]
    found = {
        (method, path)
        for path, methods in paths.items()
        for method, described in methods.items()
        if OTHER_TAGS.isdisjoint(described["tags"])
    }
    assert found == ROUTES.keys()


def test_all_but_health_is_documented_to_need_a_key(http: Client) -> None:
    document = answered(http.get("/docs/openapi.json"))
    assert document["security"] == [{"key": []}]
    without_key = {
        path
        for path, methods in document["paths"].items()
        for described in methods.values()
        if described.get("security") == [{}]
    }
    assert without_key == {"/health", "/health/live", "/health/ready"}


def test_no_key_is_documented_where_none_is_needed(client: TestClient[Litestar]) -> None:
    assert "security" not in answered(client.get("/docs/openapi.json"))


def test_what_is_in_a_list_or_may_be_null_is_documented_with_its_constraints(http: Client) -> None:
    described = answered(http.get("/docs/openapi.json"))["components"]["schemas"]["NewMemory"]
    assert described["additionalProperties"] is False
    assert described["properties"]["tags"]["items"]["maxLength"] == 128
    context, null = described["properties"]["context"]["anyOf"]
    assert (context["maxLength"], null) == (512, {"type": "null"})
    assert context["pattern"].endswith("$")


@pytest.mark.parametrize("route", WITH_BODY)
def test_the_documented_request_is_taken(filled: Client, route: tuple[str, str]) -> None:
    examples = body_examples(operation(filled, route))
    assert examples
    for example in examples:
        response = filled.request(route[0], ROUTES[route], json=example)
        assert response.status_code in (200, 201), response.text


@pytest.mark.parametrize("route", ROUTES)
def test_the_documented_answer_has_the_fields_of_a_real_one(
    filled: Client, route: tuple[str, str]
) -> None:
    described = operation(filled, route)
    body = body_examples(described)[0] if route in WITH_BODY else None
    if body and "query" in body:
        body = body | {"filter": None, "query": "Ada drinks tea."}
    response = filled.request(route[0], ROUTES[route], json=body)
    answers = described["responses"][str(response.status_code)]["content"]
    ((media_type, answer),) = answers.items()
    assert response.headers["content-type"].startswith(media_type)
    (example,) = answer["examples"].values()
    if route == ("get", "/export"):
        _, real, *_ = response.text.splitlines()
        assert json.loads(example["value"]).keys() <= json.loads(real).keys()
    else:
        assert agree(example["value"], json.loads(response.text.splitlines()[-1]))


def test_a_successor_is_answered_as_documented(filled: Client) -> None:
    described = operation(filled, ("post", "/memories/{id}/supersede"))
    (example,) = described["responses"]["201"]["content"]["application/json"]["examples"].values()
    real = supersede(filled, "milk", "Bob drinks juice.")
    assert agree(example["value"], real)
