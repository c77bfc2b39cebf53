from collections.abc import Iterator
from pathlib import Path

import pytest

from service.api.cors import cors_of
from service.errors import InvalidSettings
from tests.api.requests import Client, serving

PAGE = "https://app.example"
ELSEWHERE = "https://evil.example"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type",
}


@pytest.fixture(scope="module")
def http(starter_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/memory.db"
    with serving(starter_bundle, store, cors_origins=f"{PAGE}, http://localhost:3000") as client:
        yield client


def test_a_page_of_a_set_origin_may_send_its_key_and_read_the_answer(http: Client) -> None:
    preflight = http.options("/v1/embeddings", headers={"Origin": PAGE, **PREFLIGHT})
    assert preflight.status_code < 300
    assert preflight.headers["Access-Control-Allow-Origin"] == PAGE
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"].lower()
    answer = http.post("/v1/embeddings", json={"input": "tea"}, headers={"Origin": PAGE})
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]


def test_a_page_of_another_origin_may_not(http: Client) -> None:
    headers = {"Origin": ELSEWHERE}
    preflight = http.options("/v1/embeddings", headers=headers | PREFLIGHT)
    assert "Access-Control-Allow-Origin" not in preflight.headers
    answer = http.post("/v1/embeddings", json={"input": "tea"}, headers=headers)
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_unless_origins_are_set_no_page_may(service_on_sqlite: Client) -> None:
    preflight = service_on_sqlite.options("/v1/embeddings", headers={"Origin": PAGE, **PREFLIGHT})
    answer = service_on_sqlite.get("/memories", headers={"Origin": PAGE})
    for response in (preflight, answer):
        assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origins", ["app.example", "", f"{PAGE}/path", f"{PAGE},", "null"])
def test_what_is_not_an_origin_is_refused(origins: str) -> None:
    with pytest.raises(InvalidSettings, match="expected origins such as https"):
        cors_of(origins)
