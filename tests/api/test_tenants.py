import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.api.requests import (
    Client,
    answered,
    created,
    refused,
    relate,
    remember,
    search,
    supersede,
)
from tests.memory.memories import unique_tenant

# The same of both tenants, but for the word after "drinks".
ONE, OTHER = "tea", "milk"


class Tenants:
    """The service as each of two tenants sees it."""

    def __init__(self, http: Client) -> None:
        self._http = http
        self._keys = {}
        for drink in (ONE, OTHER):
            http.enter(unique_tenant(), "read", "write")
            self._keys[drink] = http.headers["Authorization"]

    def of(self, drink: str) -> Client:
        """The service of one of them, until the other one is asked for."""
        self._http.headers["Authorization"] = self._keys[drink]
        return self._http

    @contextmanager
    def unchanged(self, drink: str) -> Iterator[None]:
        """Holds that nothing of this tenant changes."""
        before = self._everything(drink)
        yield
        assert self._everything(drink) == before

    def _everything(self, drink: str) -> Any:
        http = self.of(drink)
        _, *lines = http.get("/export", params={"embeddings": True}).text.splitlines()
        return lines, answered(http.get("/stats")), search(http, "drinks", mode="text")


@pytest.fixture
def tenants(service_on_sqlite: Client) -> Tenants:
    """Two tenants with the same ids, scopes, tags and relations."""
    tenants = Tenants(service_on_sqlite)
    for drink in (ONE, OTHER):
        http = tenants.of(drink)
        scope = {"user_id": "ada", "session_id": "monday", "agent_id": "butler"}
        fields: dict[str, Any] = scope | {"tags": ["drinks"], "context": "home"}
        remember(http, "Ada has the same cup.", id="same", **fields)
        remember(http, f"Ada drinks {drink}.", id="a", **fields)
        remember(http, f"Bob drinks {drink}.", id="b", **fields)
        supersede(http, "b", f"Bob drinks cold {drink}.", id="b2")
        relate(http, "a", "b2")
        relate(http, "a", "same", "CAUSES")
    return tenants


def test_a_read_is_of_the_tenants_own(tenants: Tenants) -> None:
    for drink in (ONE, OTHER):
        http = tenants.of(drink)
        texts = [
            http.get(path).text
            for path in (
                "/memories/a",
                "/memories",
                "/memories/b/history",
                "/memories/a/related?hops=3",
                "/export",
            )
        ]
        texts.append(http.post("/memories/search", json={"query": "a drink", "hops": 3}).text)
        texts.append(http.post("/recall", json={"query": "drinks", "min_similarity": -1}).text)
        other = OTHER if drink == ONE else ONE
        for text in texts:
            assert f"drinks {drink}" in text or f"cold {drink}" in text
            assert other not in text


def test_counts_are_of_the_tenants_own(tenants: Tenants) -> None:
    http = tenants.of(ONE)
    for path in ("/tags", "/contexts"):
        ((count,),) = answered(http.get(path)).values()
        assert count["memories"] == 3
    stats = answered(http.get("/stats"))
    assert (stats["memories"], stats["current"], stats["relations"]) == (4, 3, 2)
    assert (stats["tags"], stats["contexts"], stats["users"], stats["sessions"]) == (1, 1, 1, 1)
    for mode in ("hybrid", "vector", "text"):
        assert len(search(http, "Ada drinks", mode=mode, limit=1_000)) == 3


def test_what_one_tenant_has_alone_is_not_there_for_the_other(tenants: Tenants) -> None:
    remember(tenants.of(ONE), "Ada has a secret.", id="secret")
    relate(tenants.of(ONE), "secret", "a")
    http = tenants.of(OTHER)
    refused(http.get("/memories/secret"), 404, "memory_not_found")
    refused(http.get("/memories/secret/history"), 404, "memory_not_found")
    refused(http.get("/memories/secret/related"), 404, "memory_not_found")
    refused(http.patch("/memories/secret", json={"importance": 1}), 404, "memory_not_found")
    refused(http.delete("/memories/secret"), 404, "memory_not_found")
    body = {"content": "Ada has no secret."}
    refused(http.post("/memories/secret/supersede", json=body), 404, "memory_not_found")
    ends = {"source": "a", "target": "secret"}
    refused(http.post("/relations", json=ends), 404, "memory_not_found")
    refused(http.delete("/relations", params=ends), 404, "relation_not_found")
    relations = [{"target": "secret"}]
    body_with_relation = {"content": "Ada is curious.", "relations": relations}
    refused(http.post("/memories", json=body_with_relation), 422, "invalid_input")
    assert "secret" not in search(http, "secret")
    assert ("secret", "a") not in [
        (relation["source"], relation["target"])
        for found in answered(http.get("/memories/a/related?hops=3"))["related"]
        for relation in found["path"]
    ]


def test_the_same_content_is_a_duplicate_in_its_own_tenant_only(tenants: Tenants) -> None:
    body = {"content": "Ada has a kettle."}
    first = created(tenants.of(ONE).post("/memories", json=body))
    second = created(tenants.of(OTHER).post("/memories", json=body))
    assert first["id"] != second["id"]
    assert answered(tenants.of(ONE).post("/memories", json=body))["id"] == first["id"]


def test_an_idempotency_key_is_of_its_tenant(tenants: Tenants) -> None:
    headers = {"Idempotency-Key": "key"}
    for drink, content in ((ONE, "Ada has a kettle."), (OTHER, "Ada has a pot.")):
        response = tenants.of(drink).post("/memories", json={"content": content}, headers=headers)
        assert created(response)["content"] == content


def test_a_cursor_of_another_tenant_shows_nothing_of_it(tenants: Tenants) -> None:
    cursor = answered(tenants.of(ONE).get("/memories?limit=1"))["next_cursor"]
    page = tenants.of(OTHER).get("/memories", params={"cursor": cursor})
    assert ONE not in page.text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("post", "/memories", {"content": "Ada drinks rum.", "id": "a", "on_conflict": "replace"}),
        ("post", "/memories", {"content": "Ada drinks rum.", "relations": [{"target": "a"}]}),
        ("post", "/memories/batch", {"memories": [{"content": "Rum.", "user_id": "ada"}]}),
        ("patch", "/memories/a", {"content": "Ada drinks rum.", "tags": ["rum"]}),
        ("post", "/memories/a/supersede", {"content": "Ada drinks rum.", "id": "a2"}),
        ("post", "/memories/delete", {"filter": {"user_id": "ada"}}),
        ("post", "/memories/delete", {"filter": {"all": []}}),
        ("post", "/relations", {"source": "same", "target": "a"}),
        ("delete", "/relations?source=a&target=b2", None),
        ("delete", "/memories/a", None),
        ("delete", "/memories/b", None),
        ("delete", "/memories/b2", None),
        ("delete", "/sessions/monday", None),
        ("delete", "/users/ada", None),
    ],
)
def test_a_write_changes_nothing_of_another_tenant(
    tenants: Tenants, method: str, path: str, body: Any
) -> None:
    with tenants.unchanged(OTHER):
        response = tenants.of(ONE).request(method, path, json=body)
        assert response.status_code in (200, 201), response.text


def test_an_import_goes_into_the_tenant_of_the_request(tenants: Tenants) -> None:
    dump = tenants.of(ONE).get("/export", params={"embeddings": True}).text
    dump = dump.replace(ONE, "rum").replace('"version":1', '"version":7')
    with tenants.unchanged(OTHER):
        response = tenants.of(ONE).post("/import", content=dump)
        ending = json.loads(response.text.splitlines()[-1])
        assert (ending["replaced"], ending["done"]) == (4, True)


def test_an_import_cannot_name_another_tenant(tenants: Tenants) -> None:
    header, *lines = tenants.of(ONE).get("/export").text.splitlines()
    other = json.dumps({"type": "tenant", "tenant": "default"})
    with tenants.unchanged(OTHER), tenants.unchanged(ONE):
        response = tenants.of(ONE).post("/import", content="\n".join([header, other, *lines]))
        assert "of several tenants" in json.loads(response.text.splitlines()[-1])["error"]["detail"]
