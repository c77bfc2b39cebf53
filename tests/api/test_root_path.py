from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.requests import Client, serving

ROOT = "/memory"


@pytest.fixture(scope="module")
def behind_a_path(
    starter_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/memory.db"
    with serving(starter_bundle, store, root_path=ROOT) as client:
        yield client


@pytest.mark.parametrize("prefix", [ROOT, ""], ids=["left there", "taken off by the proxy"])
def test_routes_are_found_behind_the_path(behind_a_path: Client, prefix: str) -> None:
    assert behind_a_path.get(f"{prefix}/health/live").status_code == 200
    assert behind_a_path.get(f"{prefix}/nowhere").json()["code"] == "not_found"


@pytest.mark.parametrize("prefix", [ROOT, ""], ids=["left there", "taken off by the proxy"])
def test_what_is_linked_to_begins_with_the_path(behind_a_path: Client, prefix: str) -> None:
    to_docs = behind_a_path.get(f"{prefix}/", follow_redirects=False)
    assert to_docs.headers["location"] == f"{ROOT}/docs"
    content = {"content": f"remembered through {prefix or 'nothing'}"}
    remembered = behind_a_path.post(f"{prefix}/memories", json=content)
    assert remembered.headers["location"] == f"{ROOT}/memories/{remembered.json()['id']}"
    assert behind_a_path.get(remembered.headers["location"]).json()["content"] == content["content"]


def test_the_path_within_another_is_left_there(behind_a_path: Client) -> None:
    behind_a_path.post("/memories", json={"id": "memory-1", "content": "about itself"})
    for prefix in (ROOT, ""):
        assert behind_a_path.get(f"{prefix}/memories/memory-1").json()["id"] == "memory-1"


def test_clients_made_from_the_description_call_behind_the_path(behind_a_path: Client) -> None:
    described = behind_a_path.get(f"{ROOT}/docs/openapi.json").json()
    assert described["servers"] == [{"url": ROOT}]
