"""Talks to the service as its clients do, and holds it to its answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from httpx import Response
from litestar import Litestar
from litestar.testing import TestClient

from service.app import create_app
from service.keys import SCOPES, Limits, Scope, add_key
from service.settings import Settings


class Client(TestClient[Litestar]):
    """The whole service, without a socket, as who has a key uses it."""

    def __init__(self, app: Litestar, api_keys: Path) -> None:
        super().__init__(app, raise_server_exceptions=False)
        self._api_keys = api_keys

    def enter(self, tenant: str, *scopes: Scope, **limits: int) -> None:
        """Go on with a new key, which allows everything if no scopes are given."""
        _, key = add_key(
            self._api_keys, tenant=tenant, scopes=scopes or SCOPES, limits=Limits(**limits)
        )
        self.headers["Authorization"] = f"Bearer {key}"


@contextmanager
def serving(bundle: Path, store: str, **settings: Any) -> Iterator[Client]:
    """The whole service on a store, as the tenant `default` uses it."""
    with TemporaryDirectory() as folder:
        api_keys = Path(folder) / "keys.json"
        add_key(api_keys, tenant="another", scopes=SCOPES)
        app = create_app(Settings(model=bundle, store=store, api_keys=api_keys, **settings))
        with Client(app, api_keys) as client:
            client.enter("default")
            yield client


def remember(client: Client, content: str, **fields: Any) -> Any:
    """The memory that is kept of a new content."""
    return created(client.post("/memories", json={"content": content, **fields}))


def supersede(client: Client, old: str, content: str, **fields: Any) -> Any:
    """The memory that takes the place of the one of this id."""
    return created(client.post(f"/memories/{old}/supersede", json={"content": content, **fields}))


def relate(client: Client, source: str, target: str, relation_type: str = "RELATED_TO") -> Any:
    """The relation that is made."""
    body = {"source": source, "target": target, "relation_type": relation_type}
    return created(client.post("/relations", json=body))


def search(client: Client, query: str, **fields: Any) -> list[str]:
    """The ids of what is found, best first."""
    body = {"query": query, **fields}
    answer = answered(client.post("/memories/search", json=body))
    return [result["memory"]["id"] for result in answer["results"]]


def created(response: Response) -> Any:
    """What a request made that had to make something."""
    assert response.status_code == 201, response.text
    return response.json()


def answered(response: Response) -> Any:
    """The answer to a request that had to succeed."""
    assert response.status_code == 200, response.text
    return response.json()


def refused(response: Response, status: int, code: str) -> str:
    """Why a request was refused that had to be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["code"]) == (status, code)
    detail: str = problem["detail"]
    return detail
