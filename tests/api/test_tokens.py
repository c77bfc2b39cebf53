from typing import Any

import pytest
from httpx import Response
from litestar import Litestar
from litestar.testing import TestClient

Client = TestClient[Litestar]


def tokens(client: Client, inputs: Any, **fields: Any) -> Any:
    response = client.post("/tokenize", json={"inputs": inputs, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def refused(response: Response, status: int, error_type: str) -> str:
    error = response.json()
    assert (response.status_code, error["error_type"]) == (status, error_type), response.text
    message: str = error["error"]
    return message


def test_tokens_are_those_that_are_embedded(client: Client) -> None:
    texts = ["red planet", "word " * 100]
    usage = client.post("/v1/embeddings", json={"input": texts}).json()["usage"]
    assert sum(map(len, tokens(client, texts))) == usage["total_tokens"]


def test_a_token_says_where_its_bytes_are_behind_the_prompt(client: Client) -> None:
    text = "thé Größe"
    (found,) = tokens(client, text, prompt_name="search")
    prompted = f"find: {text}".encode()
    assert [token["special"] for token in found] == [True] + [False] * (len(found) - 2) + [True]
    assert (found[0]["text"], found[0]["start"], found[0]["stop"]) == ("[CLS]", None, None)
    for token in found[1:-1]:
        assert prompted[token["start"] : token["stop"]].decode() == token["text"]
    assert "".join(token["text"] for token in found[1:-1]) == "find:théGröße"


def test_special_tokens_can_be_left_out(client: Client) -> None:
    (found,) = tokens(client, "red planet", add_special_tokens=False)
    assert not any(token["special"] for token in found)


def test_tokens_are_decoded_to_their_text(client: Client) -> None:
    lists = [[token["id"] for token in found] for found in tokens(client, ["red planet", "mars"])]
    decoded = client.post("/decode", json={"ids": lists}).json()
    assert decoded == ["text : red planet", "text : mars"]
    assert client.post("/decode", json={"ids": lists[1]}).json() == decoded[1:]
    with_special = client.post("/decode", json={"ids": lists[1], "skip_special_tokens": False})
    assert with_special.json() == ["[CLS] text : mars [SEP]"]


@pytest.mark.parametrize(
    ("path", "body", "status", "error_type", "message"),
    [
        ("/tokenize", {"inputs": []}, 400, "Empty", "at least one text"),
        ("/tokenize", {"inputs": [1]}, 422, "Validation", "got `int`"),
        ("/tokenize", {"inputs": "a", "prompt_name": "x"}, 422, "Validation", "search, document"),
        ("/tokenize", {"inputs": "a " * 600_000}, 422, "Validation", "at most 524,288 tokens"),
        ("/decode", {"ids": []}, 400, "Empty", "at least one token"),
        ("/decode", {"ids": [1, [2]]}, 422, "Validation", "got both"),
        ("/decode", {"ids": [-1]}, 422, "Validation", ">= 0"),
        ("/decode", {"ids": [2**32]}, 422, "Validation", "<= 4294967295"),
        ("/decode", {"ids": [1] * 600_000}, 422, "Validation", "at most 524,288 tokens"),
    ],
)
def test_a_bad_request_is_refused_as_teis_clients_expect(
    client: Client, path: str, body: dict[str, Any], status: int, error_type: str, message: str
) -> None:
    assert message in refused(client.post(path, json=body), status, error_type)
