import base64
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from httpx import Response
from litestar import Litestar
from litestar.testing import TestClient

Client = TestClient[Litestar]

LONG = "word " * 1_000


def post(client: Client, texts: Any = ("red planet",), **fields: Any) -> Response:
    defaults = {"model": "prompted", "input_type": "search_document", "texts": texts}
    return client.post("/v2/embed", json=defaults | fields)


def embedded(client: Client, texts: Any = ("red planet",), **fields: Any) -> Any:
    response = post(client, texts, **fields)
    assert response.status_code == 200, response.text
    return response.json()


def vectors(client: Client, texts: Any = ("red planet",), **fields: Any) -> npt.NDArray[np.float32]:
    return np.array(embedded(client, texts, **fields)["embeddings"]["float"], np.float32)


def openai_vectors(client: Client, texts: list[str], **fields: Any) -> npt.NDArray[np.float32]:
    answer = client.post("/v1/embeddings", json={"input": texts, **fields}).json()
    return np.array([item["embedding"] for item in answer["data"]], np.float32)


def test_an_answer_has_coheres_shape(client: Client) -> None:
    answer = embedded(client, ["one two", "three"])
    assert answer.keys() == {"response_type", "id", "texts", "embeddings", "meta"}
    assert answer["texts"] == ["one two", "three"]
    assert answer["embeddings"].keys() == {"float"}
    assert answer["meta"] == {
        "api_version": {"version": "2"},
        "billed_units": {"input_tokens": 11},
    }
    assert answer["id"] != embedded(client)["id"]


@pytest.mark.parametrize(
    ("input_type", "prompt_name"),
    [
        ("search_query", "search"),
        ("search_document", "document"),
        ("clustering", "clustering"),
        ("classification", "document"),
    ],
)
def test_the_input_type_chooses_the_prompt_or_its_default(
    client: Client, input_type: str, prompt_name: str
) -> None:
    found = vectors(client, ["red planet", "blue"], input_type=input_type)
    expected = openai_vectors(client, ["red planet", "blue"], prompt_name=prompt_name)
    assert (found == expected).all()


def test_inputs_are_texts_in_parts(client: Client) -> None:
    parts = [{"type": "text", "text": "red"}, {"type": "text", "text": "planet"}]
    answer = embedded(client, None, inputs=[{"content": parts}, {"content": parts[:1]}])
    assert answer["texts"] == ["red\nplanet", "red"]
    assert answer["embeddings"] == embedded(client, ["red\nplanet", "red"])["embeddings"]


def test_all_types_are_those_of_the_same_embedding(client: Client) -> None:
    types = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    found = embedded(client, ["one", "two"], output_dimension=256, embedding_types=types)
    floats = np.array(found["embeddings"]["float"], np.float32)
    codes = np.array(found["embeddings"]["int8"])
    bits = np.array(found["embeddings"]["ubinary"], np.uint8)
    assert floats.shape == codes.shape == (2, 256)
    cosines = (codes * floats).sum(axis=1) / np.linalg.norm(codes, axis=1)
    assert cosines.min() > 0.9998
    assert found["embeddings"]["uint8"] == (codes + 128).tolist()
    assert (np.unpackbits(bits, axis=1) == (floats > 0)).all()
    assert found["embeddings"]["binary"] == (bits.astype(int) - 128).tolist()
    for text, row in zip(found["embeddings"]["base64"], floats, strict=True):
        assert np.frombuffer(base64.b64decode(text), "<f4").tolist() == row.tolist()


def test_many_texts_are_written_as_few_are(client: Client) -> None:
    many = vectors(client, [f"text {n}" for n in range(100)])
    assert many[99] @ vectors(client, ["text 99"])[0] >= 0.9999


def test_too_long_a_text_is_cut_at_its_end_and_that_is_said(client: Client) -> None:
    answer = embedded(client, ["short", LONG, LONG])
    assert answer["meta"]["warnings"] == ["these texts were cut: 1, 2"]
    assert (
        answer["embeddings"]
        == embedded(client, ["short", LONG, LONG], truncate="END")["embeddings"]
    )


def test_too_long_a_text_is_cut_at_its_start_or_refused_as_asked(client: Client) -> None:
    text = "volcano " + LONG + "zeppelin"
    (end,) = vectors(client, ["word " * 251 + "zeppelin"])
    (cut,) = vectors(client, [text], truncate="START")
    assert cut @ end > 0.999
    refusal = post(client, [text], truncate="NONE")
    assert refusal.status_code == 400
    assert "text 0 has" in refusal.json()["message"]


@pytest.mark.parametrize(("truncate", "kept"), [("END", "one two"), ("START", "three four")])
def test_fewer_tokens_may_be_read_than_there_are(client: Client, truncate: str, kept: str) -> None:
    answer = embedded(client, ["one two three four"], max_tokens=2, truncate=truncate)
    assert answer["meta"]["warnings"]
    assert answer["embeddings"] == embedded(client, [kept])["embeddings"]


def test_null_means_not_set_and_unknown_fields_are_ignored(client: Client) -> None:
    names = ("inputs", "images", "max_tokens", "output_dimension", "embedding_types", "truncate")
    answer = embedded(client, **dict.fromkeys((*names, "priority")), other=1)
    assert answer["embeddings"] == embedded(client, priority=999)["embeddings"]


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"texts": []}, 400, "at least one text"),
        ({"texts": ["a", ""]}, 400, "text 1 is empty"),
        ({"texts": None}, 400, "either texts or inputs"),
        ({"inputs": []}, 400, "either texts or inputs"),
        ({"texts": [1]}, 400, "got `int`"),
        ({"texts": ["a"] * 3_000}, 400, "at most 2,048 texts"),
        ({"input_type": "query"}, 400, "'query'"),
        ({"input_type": None}, 400, "got `null`"),
        ({"input_type": "image"}, 400, "got an image"),
        ({"images": ["data:image/png;base64,AAAA"]}, 400, "got an image"),
        ({"texts": None, "inputs": [{"content": [IMAGE]}]}, 400, "got an image"),
        ({"output_dimension": 1024}, 400, "384, 256, 128"),
        ({"embedding_types": ["int4"]}, 400, "'int4'"),
        ({"truncate": "MIDDLE"}, 400, "'MIDDLE'"),
        ({"max_tokens": 0}, 400, ">= 1"),
        ({"model": "embed-v4.0"}, 404, "prompted, prompted-query, prompted-document"),
        ({"model": "prompted-query"}, 400, "ask for different prompts"),
    ],
)
def test_a_bad_field_is_refused_with_a_message(
    client: Client, fields: dict[str, Any], status: int, message: str
) -> None:
    refusal = post(client, **fields)
    assert (refusal.status_code, refusal.json().keys()) == (status, {"message"}), refusal.text
    assert message in refusal.json()["message"]


def test_a_models_name_with_a_side_may_agree(client: Client) -> None:
    assert (vectors(client, model="prompted-document") == vectors(client)).all()
