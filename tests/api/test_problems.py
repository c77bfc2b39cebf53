import logging
from collections.abc import Iterator

import pytest
from litestar import Litestar, get
from litestar.exceptions import HTTPException
from litestar.params import FromPath
from litestar.testing import TestClient

from service.api.problems import PROBLEMS, ClientDisconnected, answer_error
from service.errors import (
    InferenceError,
    InvalidInput,
    ModelLoadError,
    Overloaded,
    ServiceError,
    StartupError,
    TextTooLong,
)

Client = TestClient[Litestar]

ERRORS: dict[str, Exception] = {
    "overloaded": Overloaded("wait", retry_after=2.1),
    "too_long": TextTooLong("cut it", parameter="input"),
    "inference": InferenceError("the model failed on text 3"),
    "startup": ModelLoadError("the secret folder"),
    "bug": ZeroDivisionError("the secret divisor"),
    "teapot": HTTPException("short and stout", status_code=418),
    "litestar": HTTPException("the secret detail", status_code=500),
    "gone": ClientDisconnected(),
}


@get(["/raise/{name:str}", "/v1/raise/{name:str}"])
async def raise_error(name: FromPath[str]) -> None:
    raise ERRORS[name]


@pytest.fixture(scope="module")
def raising() -> Iterator[Client]:
    app = Litestar(
        [raise_error],
        exception_handlers={Exception: answer_error},
        logging_config=None,
        openapi_config=None,
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def concrete(error: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for subclass in error.__subclasses__():
        yield subclass
        yield from concrete(subclass)


def test_every_error_has_a_row_or_is_seen_at_startup_only() -> None:
    for error in concrete(ServiceError):
        assert (error in PROBLEMS) != issubclass(error, StartupError), error


@pytest.mark.parametrize("error", PROBLEMS)
def test_input_at_fault_is_a_client_error(error: type[ServiceError]) -> None:
    if issubclass(error, InvalidInput):
        assert PROBLEMS[error].status in (404, 422)


def test_a_problem_is_a_problem_document(raising: Client) -> None:
    response = raising.get("/raise/too_long")
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": "urn:ai-memory-service:text_too_long",
        "title": "Text too long",
        "status": 422,
        "detail": "cut it",
        "code": "text_too_long",
    }


def test_under_v1_a_problem_has_openais_shape(raising: Client) -> None:
    response = raising.get("/v1/raise/too_long")
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "error": {
            "message": "cut it",
            "type": "invalid_request_error",
            "param": "input",
            "code": "text_too_long",
        }
    }


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_overload_says_when_to_come_back(raising: Client, prefix: str) -> None:
    response = raising.get(f"{prefix}/raise/overloaded")
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_a_failed_inference_is_the_servers_fault(raising: Client, prefix: str) -> None:
    response = raising.get(f"{prefix}/raise/inference")
    assert response.status_code == 500
    assert "text 3" in response.text


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize("name", ["bug", "startup", "litestar"])
def test_what_nobody_expected_is_logged_and_kept_from_clients(
    raising: Client, prefix: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        response = raising.get(f"{prefix}/raise/{name}")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "its log says why" in response.text
    assert "secret" in caplog.text
    assert f"GET {prefix}/raise/{{name}} failed" in caplog.text


def test_litestars_own_errors_keep_their_status(raising: Client) -> None:
    response = raising.get("/raise/teapot")
    assert (response.status_code, response.json()["detail"]) == (418, "short and stout")


def test_a_client_that_left_is_not_logged(
    raising: Client, caplog: pytest.LogCaptureFixture
) -> None:
    assert raising.get("/raise/gone").status_code == 499
    assert not caplog.records


@pytest.mark.parametrize(
    ("path", "media_type"),
    [("/nothing", "application/problem+json"), ("/v1/nothing", "application/json")],
)
def test_an_unknown_path_is_not_found_in_the_shape_of_its_place(
    client: Client, path: str, media_type: str
) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == media_type
    assert f"there is no '{path}' here; /docs" in response.text
