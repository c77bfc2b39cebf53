from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from httpx import Response
from litestar import Litestar
from litestar.testing import TestClient

Client = TestClient[Litestar]

LONG = "word " * 1_000
EMBEDDING_PATHS = ["/embed", "/"]


def embed(client: Client, inputs: Any, path: str = "/embed", **fields: Any) -> Response:
    return client.post(path, json={"inputs": inputs, **fields})


def vectors(response: Response) -> npt.NDArray[np.float32]:
    assert response.status_code == 200, response.text
    return np.array(response.json(), np.float32)


def openai_vectors(client: Client, texts: list[str], **fields: Any) -> npt.NDArray[np.float32]:
    answer = client.post("/v1/embeddings", json={"input": texts, **fields}).json()
    return np.array([item["embedding"] for item in answer["data"]], np.float32)


def refused(response: Response, status: int, error_type: str) -> str:
    """Why a request was refused that had to be."""
    error = response.json()
    assert (response.status_code, error.keys()) == (status, {"error", "error_type"}), response.text
    assert error["error_type"] == error_type
    message: str = error["error"]
    return message


@pytest.mark.parametrize("path", EMBEDDING_PATHS)
@pytest.mark.parametrize("prompt", [{}, {"prompt_name": "search"}])
def test_embeddings_are_those_of_openais_route(
    client: Client, path: str, prompt: dict[str, str]
) -> None:
    texts = ["red planet", "blue"]
    found = vectors(embed(client, texts, path, **prompt))
    assert (found == openai_vectors(client, texts, **prompt)).all()


def test_a_prompt_that_a_client_puts_in_front_itself_is_not_doubled(client: Client) -> None:
    own = embed(client, "find: red planet").json()
    assert own == embed(client, "red planet", prompt_name="search").json()


def test_a_single_text_is_a_list_of_one(client: Client) -> None:
    assert vectors(embed(client, "one")).shape == (1, 384)


def test_dimensions_shorten_at_unit_length(client: Client) -> None:
    (short,) = vectors(embed(client, "one", dimensions=128))
    assert np.linalg.norm(short) == pytest.approx(1, abs=1e-5)
    assert len(short) == 128


def test_null_means_not_set_and_unknown_fields_are_ignored(client: Client) -> None:
    fields = ("truncate", "truncation_direction", "prompt_name", "normalize", "dimensions")
    answer = embed(client, "one", "/embed", **dict.fromkeys(fields), pooling="cls")
    assert answer.json() == embed(client, "one", normalize=True).json()


def test_too_long_a_text_is_cut_as_tei_does_and_that_is_said(client: Client) -> None:
    answer = embed(client, ["short", LONG, LONG])
    assert answer.headers["x-truncated"] == "2"
    assert (vectors(answer) == vectors(embed(client, ["short", LONG, LONG], truncate=True))).all()
    assert embed(client, "short").headers["x-truncated"] == "0"


def test_too_long_a_text_is_refused_where_it_may_not_be_cut(client: Client) -> None:
    message = refused(embed(client, ["a", LONG], truncate=False), 422, "Validation")
    assert "text 1 has 1,004 tokens" in message


@pytest.mark.parametrize("direction", ["left", "Left"])
def test_what_is_cut_off_may_be_on_the_left(client: Client, direction: str) -> None:
    text = "volcano " + LONG + "zeppelin"
    (left,) = vectors(embed(client, text, truncation_direction=direction))
    (right,) = vectors(embed(client, text, truncation_direction="right"))
    (end,) = vectors(embed(client, "word " * 251 + "zeppelin"))
    (start,) = vectors(embed(client, "volcano " + "word " * 251))
    assert left @ end > 0.999 > left @ start
    assert right @ start > 0.999 > right @ end


def test_headers_say_what_was_read_and_where_the_time_went(client: Client) -> None:
    headers = embed(client, ["one two", "thrée"]).headers
    assert headers["x-compute-type"] == "cpu"
    assert (headers["x-compute-characters"], headers["x-compute-tokens"]) == ("12", "11")
    times = ("compute", "total", "tokenization", "queue", "inference")
    assert all(int(headers[f"x-{name}-time"]) >= 0 for name in times)
    assert int(headers["x-total-time"]) >= int(headers["x-inference-time"]) - 1


@pytest.mark.parametrize("path", EMBEDDING_PATHS)
@pytest.mark.parametrize(
    ("body", "status", "error_type", "message"),
    [
        ({"inputs": []}, 400, "Empty", "got an empty list"),
        ({"inputs": ["a", ""]}, 400, "Empty", "text 1 is empty"),
        ({}, 422, "Validation", "missing required field `inputs`"),
        ({"inputs": [1, 2]}, 422, "Validation", "got token ids"),
        ({"inputs": [[1], [2]]}, 422, "Validation", "got token ids"),
        ({"inputs": ["a"] * 3_000}, 422, "Validation", "at most 2,048 texts"),
        ({"inputs": "a", "normalize": False}, 422, "Validation", "expected normalize=true"),
        ({"inputs": "a", "dimensions": 300}, 422, "Validation", "384, 256, 128"),
        ({"inputs": "a", "prompt_name": "x"}, 422, "Validation", "search, document, clustering"),
        ({"inputs": "a", "truncation_direction": "up"}, 422, "Validation", "'up'"),
    ],
)
def test_a_bad_request_is_refused_as_teis_clients_expect(
    client: Client, path: str, body: dict[str, Any], status: int, error_type: str, message: str
) -> None:
    assert message in refused(client.post(path, json=body), status, error_type)


def test_token_embeddings_are_refused_with_what_there_is_instead(client: Client) -> None:
    message = refused(embed(client, "a", "/embed_all"), 422, "Validation")
    assert "use /embed" in message


def test_what_is_not_done_in_time_is_answered_504(client: Client) -> None:
    many = {"inputs": [f"{n} " * 200 for n in range(200)]}
    response = client.post("/embed", json=many, headers={"X-Request-Timeout-Ms": "1"})
    assert "in 0.001 s" in refused(response, 504, "Backend")


def compare(client: Client, path: str, sentences: list[str], **fields: Any) -> Response:
    inputs = {"source_sentence": "a red planet", "sentences": sentences}
    return client.post(path, json={"inputs": inputs, **fields})


@pytest.mark.parametrize("path", ["/similarity", "/"])
def test_similarities_are_the_cosines_of_embeddings(client: Client, path: str) -> None:
    sentences = ["Mars", "a kettle", "a red planet"]
    found = vectors(compare(client, path, sentences))
    source, *others = openai_vectors(client, ["a red planet", *sentences])
    assert found == pytest.approx(np.array(others) @ source, abs=1e-5)
    assert found[2] == pytest.approx(1)
    assert found.max() <= 1


@pytest.mark.parametrize("path", ["/similarity", "/"])
def test_sentences_are_compared_behind_a_named_prompt(client: Client, path: str) -> None:
    parameters = {"prompt_name": "search", "truncate": False}
    found = vectors(compare(client, path, ["Mars"], parameters=parameters))
    source, mars = openai_vectors(client, ["a red planet", "Mars"], prompt_name="search")
    assert found == pytest.approx([source @ mars], abs=1e-5)
    long = compare(client, path, [LONG], parameters=parameters)
    assert "text 1" in refused(long, 422, "Validation")


@pytest.mark.parametrize("path", ["/similarity", "/"])
def test_nothing_to_compare_with_is_refused(client: Client, path: str) -> None:
    assert "at least one sentence" in refused(compare(client, path, []), 400, "Empty")


def test_the_alias_of_openais_route_answers_the_same(client: Client) -> None:
    body = {"input": ["one", "two"], "model": "prompted"}
    there, here = (
        client.post(path, json=body).json() for path in ("/v1/embeddings", "/embeddings")
    )
    assert here == there
    assert client.post("/embeddings", json={}).json()["error"]["code"] == "invalid_input"
