import json
from typing import Any

import pytest

from service.api.error_shapes import Problem, Shape, shape_of, write
from service.api.problems import PROBLEMS
from service.errors import (
    EmptyInput,
    InferenceError,
    InvalidInput,
    Overloaded,
    ServiceError,
    StoreUnavailable,
)


def written(shape: Shape, problem: Problem) -> tuple[int | None, Any]:
    response = write(shape, problem, "why", parameter="input", headers={"Retry-After": "3"})
    assert response.headers["Retry-After"] == "3"
    assert response.media_type == (
        "application/problem+json" if shape == "problem" else "application/json"
    )
    return response.status_code, json.loads(response.content)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/embeddings", "openai"),
        ("/v1/models/another", "openai"),
        ("/v1/nothing", "openai"),
        ("/embeddings", "openai"),
        ("/", "tei"),
        ("/embed", "tei"),
        ("/embed/", "tei"),
        ("/similarity", "tei"),
        ("/v2/embed", "cohere"),
        ("/mem0/v1/memories", "mem0"),
        ("/mem0/nothing", "mem0"),
        ("/v2/nothing", "problem"),
        ("/embed/more", "problem"),
        ("/memories", "problem"),
    ],
)
def test_the_path_decides_the_shape(path: str, shape: Shape) -> None:
    assert shape_of(path) == shape


def test_a_problem_document_has_a_stable_type_and_the_status() -> None:
    assert written("problem", Problem("text_too_long", 422)) == (
        422,
        {
            "type": "urn:ai-memory-service:text_too_long",
            "title": "Text too long",
            "status": 422,
            "detail": "why",
            "code": "text_too_long",
        },
    )


@pytest.mark.parametrize(
    ("status", "openai_status", "openai_type"),
    [
        (422, 400, "invalid_request_error"),
        (404, 404, "invalid_request_error"),
        (429, 429, "rate_limit_error"),
        (503, 503, "server_error"),
    ],
)
def test_openais_clients_get_the_status_and_type_that_they_know(
    status: int, openai_status: int, openai_type: str
) -> None:
    error = {"message": "why", "type": openai_type, "param": "input", "code": "code"}
    assert written("openai", Problem("code", status)) == (openai_status, {"error": error})


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (EmptyInput, 400, "Empty"),
        (InvalidInput, 422, "Validation"),
        (InferenceError, 424, "Backend"),
        (Overloaded, 429, "Overloaded"),
        (StoreUnavailable, 503, "Unhealthy"),
    ],
)
def test_teis_clients_get_the_status_and_type_that_they_know(
    error: type[ServiceError], status: int, error_type: str
) -> None:
    expected = status, {"error": "why", "error_type": error_type}
    assert written("tei", PROBLEMS[error]) == expected


@pytest.mark.parametrize(("status", "cohere_status"), [(422, 400), (404, 404), (429, 429)])
def test_coheres_clients_get_a_message(status: int, cohere_status: int) -> None:
    assert written("cohere", Problem("code", status)) == (cohere_status, {"message": "why"})
