import pytest
from litestar import Litestar
from litestar.testing import TestClient

Client = TestClient[Litestar]


def test_the_served_model_is_listed_under_each_of_its_names(client: Client) -> None:
    answer = client.get("/v1/models").json()
    assert answer["object"] == "list"
    names = [model["id"] for model in answer["data"]]
    assert names == ["prompted", "prompted-query", "prompted-document"]


@pytest.mark.parametrize("name", ["prompted", "prompted-query", "prompted-document"])
def test_a_listed_model_is_described_alone_as_in_the_list(client: Client, name: str) -> None:
    described = client.get(f"/v1/models/{name}").json()
    assert described in client.get("/v1/models").json()["data"]
    assert described["object"] == "model"
    assert described["owned_by"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert described["created"] > 1_700_000_000


@pytest.mark.parametrize("name", ["prompted-passage", "prompted%00", "gpt%2F4", "m" * 1_000])
def test_another_model_is_not_found(client: Client, name: str) -> None:
    response = client.get(f"/v1/models/{name}")
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert len(response.text) < 1_000
