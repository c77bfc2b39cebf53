from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from service.app import create_app
from service.errors import InvalidSettings, ModelLoadError
from service.settings import Settings

Client = TestClient[Litestar]

ROUTES = [
    ("post", "/v1/embeddings"),
    ("post", "/embeddings"),
    ("post", "/"),
    ("post", "/embed"),
    ("post", "/similarity"),
    ("post", "/tokenize"),
    ("post", "/decode"),
    ("post", "/v2/embed"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{model}"),
    ("post", "/memories"),
    ("get", "/memories"),
    ("post", "/memories/batch"),
    ("post", "/memories/delete"),
    ("post", "/memories/search"),
    ("get", "/memories/{id}"),
    ("patch", "/memories/{id}"),
    ("delete", "/memories/{id}"),
    ("get", "/memories/{id}/history"),
    ("get", "/memories/{id}/related"),
    ("post", "/memories/{id}/supersede"),
    ("post", "/recall"),
    ("post", "/relations"),
    ("delete", "/relations"),
    ("get", "/tags"),
    ("get", "/contexts"),
    ("get", "/stats"),
    ("delete", "/sessions/{id}"),
    ("delete", "/users/{id}"),
    ("get", "/export"),
    ("post", "/import"),
    ("get", "/health/live"),
    ("get", "/health/ready"),
    ("get", "/health"),
    ("get", "/metrics"),
    ("get", "/info"),
]


EMBEDDING_PATHS = [path for method, path in ROUTES[:8]]
COHERE_REQUEST = {"model": "prompted", "input_type": "search_query", "texts": ["a"]}


@pytest.fixture(scope="module")
def openapi(client: Client) -> Any:
    return client.get("/docs/openapi.json").json()


def test_every_route_is_documented_and_no_other(openapi: Any) -> None:
    """Those of mem0's clients are held to it in tests/api/mem0."""
    found = {(method, path) for path, methods in openapi["paths"].items() for method in methods}
    assert {route for route in found if not route[1].startswith("/mem0/")} == set(ROUTES)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_route_says_what_it_does_and_shows_an_answer(
    openapi: Any, method: str, path: str
) -> None:
    operation = openapi["paths"][path][method]
    assert operation["summary"]
    assert operation["description"]
    if path == "/health":  # its answer has no body
        return
    answers = [operation["responses"].get(status) for status in ("200", "201")]
    (content,) = next(
        content
        for answer in answers
        if answer and (content := list(answer["content"].values())) and "examples" in content[0]
    )
    assert content["examples"]


@pytest.mark.parametrize("path", EMBEDDING_PATHS)
def test_the_documented_requests_are_taken(client: Client, openapi: Any, path: str) -> None:
    body = openapi["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"]["examples"]
    for example in body["schema"]["examples"]:
        served = {"model": "prompted"} if "model" in example else {}
        response = client.post(path, json=example | served)
        assert response.status_code == 200, response.text


def test_the_documented_answers_have_the_fields_of_real_ones(client: Client, openapi: Any) -> None:
    real = {
        "/v1/embeddings": client.post("/v1/embeddings", json={"input": "a"}),
        "/v2/embed": client.post("/v2/embed", json=COHERE_REQUEST),
        "/v1/models": client.get("/v1/models"),
        "/v1/models/{model}": client.get("/v1/models/prompted"),
        "/info": client.get("/info"),
    }
    for path, response in real.items():
        answers = openapi["paths"][path][response.request.method.lower()]["responses"]["200"]
        (example,) = answers["content"]["application/json"]["examples"].values()
        assert example["value"].keys() == response.json().keys()


ERROR_FIELDS = {
    "cohere": {"message"},
    "embeddings": {"error"},
    "text-embeddings-inference": {"error", "error_type"},
}


@pytest.mark.parametrize("path", EMBEDDING_PATHS)
def test_an_error_has_the_shape_of_its_routes_protocol(
    client: Client, openapi: Any, path: str
) -> None:
    (tag,) = openapi["paths"][path]["post"]["tags"]
    for answer in (client.post(path, content=b"{"), client.post(path, json={})):
        assert answer.json().keys() == ERROR_FIELDS[tag]
        assert str(answer.status_code) in openapi["paths"][path]["post"]["responses"]


def test_the_root_leads_to_a_page_that_can_be_browsed(client: Client) -> None:
    response = client.get("/")
    assert response.url.path == "/docs"
    assert response.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("model", "error"), [(None, InvalidSettings), (Path("/nowhere"), ModelLoadError)]
)
def test_an_app_without_a_model_does_not_start(model: Path | None, error: type[Exception]) -> None:
    with pytest.raises(ExceptionGroup) as raised, TestClient(create_app(Settings(model=model))):
        pass
    assert raised.group_contains(error)
