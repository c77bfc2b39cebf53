import base64
import json
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from httpx import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar import Litestar
from litestar.testing import TestClient

Client = TestClient[Litestar]

LONG = "word " * 1_000


def post(client: Client, **body: Any) -> Response:
    return client.post("/v1/embeddings", json=body)


def embedded(client: Client, **body: Any) -> Any:
    response = post(client, **body)
    assert response.status_code == 200, response.text
    return response.json()


def vector(client: Client, **body: Any) -> npt.NDArray[np.float32]:
    return np.array(embedded(client, **body)["data"][0]["embedding"], np.float32)


def refusal(response: Response) -> dict[str, Any]:
    """The error of a response in the shape that OpenAI's clients parse."""
    assert 400 <= response.status_code < 500, response.text
    (error,) = response.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    return dict(error)


def test_an_answer_has_openais_shape(client: Client) -> None:
    answer = embedded(client, input=["one two", "three"], model="prompted", user="someone")
    assert answer.keys() == {"object", "data", "model", "usage"}
    assert answer["object"] == "list"
    assert answer["model"] == "prompted"
    assert [(item["object"], item["index"]) for item in answer["data"]] == [
        ("embedding", 0),
        ("embedding", 1),
    ]
    assert answer["usage"] == {"prompt_tokens": 11, "total_tokens": 11}


def test_a_single_text_is_a_list_of_one(client: Client) -> None:
    assert embedded(client, input="one")["data"] == embedded(client, input=["one"])["data"]


def test_base64_holds_the_same_float32_as_the_list(client: Client) -> None:
    as_list = embedded(client, input=["one", "two"], encoding_format="float")["data"]
    as_text = embedded(client, input=["one", "two"], encoding_format="base64")["data"]
    for numbers, text in zip(as_list, as_text, strict=True):
        decoded = np.frombuffer(base64.b64decode(text["embedding"]), "<f4")
        assert decoded.tolist() == np.array(numbers["embedding"], np.float32).tolist()


def test_many_texts_are_written_as_few_are(client: Client) -> None:
    many = embedded(client, input=[f"text {n}" for n in range(100)])["data"]
    assert [item["index"] for item in many] == list(range(100))
    assert np.array(many[99]["embedding"]) @ vector(client, input="text 99") >= 0.9999


def test_dimensions_shorten_at_unit_length(client: Client) -> None:
    short = vector(client, input="one", dimensions=128)
    assert short.shape == (128,)
    assert np.linalg.norm(short) == pytest.approx(1, abs=1e-5)


def test_null_means_not_set(client: Client) -> None:
    fields = ("model", "dimensions", "encoding_format", "user", "input_type", "prompt_name")
    answer = embedded(client, input="one", truncate=None, **dict.fromkeys(fields))
    assert answer["data"] == embedded(client, input="one")["data"]
    assert answer["model"] == "prompted"


def test_unknown_fields_are_ignored(client: Client) -> None:
    body = {"input": "one", "truncate_prompt_tokens": -1, "x": {"y": [None]}}
    assert embedded(client, **body)["data"] == embedded(client, input="one")["data"]


QUERY_WAYS: tuple[dict[str, str], ...] = (
    {"model": "prompted-query"},
    {"input_type": "query"},
    {"prompt_name": "search"},
)
DOCUMENT_WAYS: tuple[dict[str, str], ...] = (
    {},
    {"model": "prompted"},
    {"model": "prompted-document"},
    {"input_type": "document"},
    {"prompt_name": "document"},
)


def test_every_way_to_choose_a_prompt_gives_the_same_embedding(client: Client) -> None:
    queries = [vector(client, input="red planet", **way) for way in QUERY_WAYS]
    documents = [vector(client, input="red planet", **way) for way in DOCUMENT_WAYS]
    assert (np.array(queries) @ queries[0]).min() >= 0.9999
    assert (np.array(documents) @ documents[0]).min() >= 0.9999
    assert queries[0] @ documents[0] < 0.99


def test_a_prompt_that_a_client_puts_in_front_itself_is_not_doubled(client: Client) -> None:
    (own,) = embedded(client, input=["find: red planet"])["data"]
    (asked,) = embedded(client, input=["red planet"], input_type="query")["data"]
    assert own == asked


def test_a_named_prompt_is_the_models(client: Client) -> None:
    named = vector(client, input="red planet", prompt_name="clustering")
    assert named @ vector(client, input="red planet") < 0.99


def test_ways_that_agree_may_be_combined(client: Client) -> None:
    model, input_type, prompt_name = QUERY_WAYS
    assert post(client, input="a", **model, **input_type, **prompt_name).status_code == 200


@pytest.mark.parametrize(("one", "other"), list(permutations(range(3), 2)))
def test_ways_that_disagree_are_refused(client: Client, one: int, other: int) -> None:
    ways = QUERY_WAYS[one] | DOCUMENT_WAYS[2:][other]
    error = refusal(post(client, input="a", **ways))
    assert "ask for different prompts" in error["message"]
    assert error["param"] in ways


def test_a_model_with_the_plain_name_and_an_input_type_do_not_disagree(client: Client) -> None:
    assert post(client, input="a", model="prompted", input_type="query").status_code == 200


def test_truncated_texts_are_named_in_the_answer(client: Client) -> None:
    answer = embedded(client, input=["short", LONG, LONG], truncate=True)
    assert answer["truncated"] == [1, 2]
    assert answer["usage"]["total_tokens"] == 5 + 256 + 256


def test_nothing_is_named_truncated_where_nothing_was(client: Client) -> None:
    assert "truncated" not in embedded(client, input="short", truncate=True)


def test_timings_and_the_number_of_tokens_are_in_a_header(client: Client) -> None:
    *timings, tokens = post(client, input=["a", "b"]).headers["server-timing"].split(", ")
    names, durations = zip(*(timing.split(";dur=") for timing in timings), strict=True)
    assert names == ("tokenization", "queue", "inference")
    assert all(float(duration) >= 0 for duration in durations)
    assert tokens == 'tokens;desc="10"'


def test_a_request_may_let_others_go_first(client: Client) -> None:
    assert post(client, input="a", priority="bulk").status_code == 200
    assert post(client, input="a", priority=None).status_code == 200


def test_what_is_done_in_time_is_answered(client: Client) -> None:
    response = client.post(
        "/v1/embeddings", json={"input": "a"}, headers={"X-Request-Timeout-Ms": "60000"}
    )
    assert response.status_code == 200


def test_what_is_not_done_in_time_is_answered_504(client: Client) -> None:
    many = [f"{n} " * 200 for n in range(200)]
    response = client.post(
        "/v1/embeddings", json={"input": many}, headers={"X-Request-Timeout-Ms": "1"}
    )
    assert response.status_code == 504
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "deadline_exceeded")
    assert "in 0.001 s" in error["message"]


@pytest.mark.parametrize("milliseconds", ["0", "-1", "1.5", "soon", "", "9" * 30])
def test_a_time_that_is_none_is_refused(client: Client, milliseconds: str) -> None:
    response = client.post(
        "/v1/embeddings", json={"input": "a"}, headers={"X-Request-Timeout-Ms": milliseconds}
    )
    assert response.status_code == 400
    assert "x-request-timeout-ms" in refusal(response)["message"].lower()


def test_the_header_is_documented(client: Client) -> None:
    described = client.get("/docs/openapi.json").json()["paths"]["/v1/embeddings"]["post"]
    (header,) = described["parameters"]
    assert (header["name"], header["in"]) == ("X-Request-Timeout-Ms", "header")
    assert not header["required"]
    assert "504" in described["responses"]


@pytest.mark.parametrize(
    ("body", "param", "code", "message"),
    [
        ({}, None, "invalid_input", "missing required field `input`"),
        ({"input": None}, "input", "invalid_input", "got `null`"),
        ({"input": {}}, "input", "invalid_input", "Expected `str | array`, got `object`"),
        ({"input": []}, "input", "empty_input", "got an empty list"),
        ({"input": ""}, "input", "empty_input", "text 0 is empty"),
        ({"input": ["a", ""]}, "input", "empty_input", "text 1 is empty"),
        ({"input": ["a", None]}, "input", "invalid_input", "got `null`"),
        ({"input": ["a", 1.5]}, "input", "invalid_input", "got `float`"),
        ({"input": [1, 2]}, "input", "invalid_input", "got token ids"),
        ({"input": [[1, 2], [3]]}, "input", "invalid_input", "check_embedding_ctx_length=False"),
        ({"input": ["a", 1]}, "input", "invalid_input", "got token ids"),
        ({"input": LONG}, "input", "text_too_long", "text 0 has 1,004 tokens"),
        ({"input": "a" * 10_000_000}, "input", "text_too_long", "10,000,000 characters"),
        ({"input": ["a"] * 100_000}, "input", "batch_too_large", "at most 2,048 texts"),
        ({"input": "a", "dimensions": 300}, "dimensions", "unsupported_dimensions", "384, 256"),
        ({"input": "a", "dimensions": "256"}, "dimensions", "invalid_input", "got `str`"),
        ({"input": "a", "dimensions": 10**30}, "dimensions", "unsupported_dimensions", "384"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "invalid_input", "'int8'"),
        ({"input": "a", "input_type": "passage"}, "input_type", "invalid_input", "'passage'"),
        ({"input": "a", "prompt_name": "find"}, "prompt_name", "unknown_prompt", "search, doc"),
        ({"input": "a", "prompt_name": "p" * 300}, "prompt_name", "invalid_input", "length <= 256"),
        ({"input": "a", "truncate": 1}, "truncate", "invalid_input", "got `int`"),
        ({"input": "a", "priority": "interactive"}, "priority", "invalid_input", "'interactive'"),
        ({"input": "a", "model": 3}, "model", "invalid_input", "got `int`"),
    ],
)
def test_a_bad_field_is_refused_by_name(
    client: Client, body: dict[str, Any], param: str | None, code: str, message: str
) -> None:
    response = post(client, **body)
    error = refusal(response)
    assert response.status_code == 400
    assert (error["param"], error["code"]) == (param, code)
    assert message in error["message"]


def test_another_model_is_not_found_and_the_known_ones_are_named(client: Client) -> None:
    response = post(client, input="a", model="text-embedding-3-small")
    error = refusal(response)
    assert response.status_code == 404
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "prompted, prompted-query, prompted-document" in error["message"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a JSON body, got an empty one"),
        (b"{", "expected JSON"),
        (b"input=a", "expected JSON"),
        (b"null", "Expected `object`, got `null`"),
        (b'"text"', "Expected `object`, got `str`"),
        (b'{"input": "a", "dimensions": NaN}', "expected JSON"),
        (b'{"input": "\xff"}', "expected JSON"),
        (b'{"input": "\\ud800"}', r"an escaped surrogate (\ud800 to \udfff) is valid only"),
        (b'{"input": "ab\\udc00 c"}', r"an escaped surrogate (\ud800 to \udfff) is valid only"),
        (b'{"input": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "at most 64 levels"),
        (b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "at most 64 levels"),
        (b"[" * 100_000, "at most 64 levels"),
        (b'{"a":' * 100_000, "at most 64 levels"),
        (b'{"input": "a", "dimensions": ' + b"1" * 100_000 + b"}", "out of range"),
        (b"\x1f\x8b\x08\x00", "expected JSON"),
    ],
)
def test_a_body_that_is_not_the_expected_json_is_refused(
    client: Client, content: bytes, message: str
) -> None:
    response = client.post("/v1/embeddings", content=content)
    assert response.status_code == 400
    assert message in refusal(response)["message"]


def test_a_pair_of_escaped_surrogates_is_one_character(client: Client) -> None:
    escaped = client.post("/v1/embeddings", content=rb'{"input": "\ud83d\ude00"}')
    assert escaped.json()["data"] == embedded(client, input="\U0001f600")["data"]


@pytest.mark.parametrize(
    "media_type", ["application/json", "application/json; charset=utf-8", "application/ld+json"]
)
def test_json_is_taken_under_its_names(client: Client, media_type: str) -> None:
    response = client.post(
        "/v1/embeddings", content=b'{"input": "a"}', headers={"content-type": media_type}
    )
    assert response.status_code == 200


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "json"])
def test_another_content_type_is_refused(client: Client, media_type: str) -> None:
    response = client.post(
        "/v1/embeddings", content=b'{"input": "a"}', headers={"content-type": media_type}
    )
    assert response.status_code == 415
    assert f"Content-Type application/json, got {media_type}" in refusal(response)["message"]


def test_a_body_over_the_limit_is_refused(client: Client) -> None:
    response = client.post("/v1/embeddings", content=b" " * (32 * 1024 * 1024 + 1))
    assert response.status_code == 413
    assert "at most 33,554,432 bytes" in refusal(response)["message"]


def test_another_method_is_refused_with_the_right_one(client: Client) -> None:
    response = client.get("/v1/embeddings")
    assert response.status_code == 405
    assert "POST" in response.headers["allow"]
    assert "expected POST" in refusal(response)["message"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text(st.characters(codec=None), max_size=40), max_size=6))
def test_any_text_is_embedded_or_refused(client: Client, texts: list[str]) -> None:
    response = client.post("/v1/embeddings", content=json.dumps({"input": texts}))
    if response.status_code == 200:
        assert len(response.json()["data"]) == len(texts)
    else:
        refusal(response)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
FIELDS = ("input", "model", "dimensions", "encoding_format", "input_type", "prompt_name")


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from([*FIELDS, "truncate", "user", "other"]), JSON))
def test_any_json_is_embedded_or_refused(client: Client, body: dict[str, Any]) -> None:
    response = client.post("/v1/embeddings", content=json.dumps(body))
    assert response.status_code == 200 or refusal(response)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=100))
def test_any_bytes_are_refused(client: Client, content: bytes) -> None:
    refusal(client.post("/v1/embeddings", content=content))
