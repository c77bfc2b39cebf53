"""Whatever one tenant asks for: nothing of another tenant is read, changed or counted."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar.handlers import HTTPRouteHandler

from service.app import ROUTES
from service.keys import Scope
from tests.api.requests import Client, answered, relate, remember, supersede
from tests.memory.memories import unique_tenant

# In everything that the other tenant has, and in nothing else.
MARK = "zebra"

# Of that, what is in no request.
SECRETS = (f"stripes of {MARK}", f"stripes of a {MARK}", f"{MARK}/herd", f'"{MARK}"')

# Both tenants have a and b; only the other one has z.
IDS = st.sampled_from(["a", "b", "z", "new"])
NAMES = st.sampled_from(["ada", f"{MARK}-eve"])
TEXTS = st.sampled_from(["Ada drinks tea.", "The stripes of an animal.", "note"])
FILTERS = st.sampled_from(
    [{"all": []}, {"user_id": f"{MARK}-eve"}, {"tags": MARK}, {"id": "z"}, {"not": {"id": "a"}}]
)
MEMORY = st.fixed_dictionaries(
    {"content": TEXTS},
    optional={
        "id": IDS,
        "user_id": NAMES,
        "on_conflict": st.just("replace"),
        "relations": st.lists(st.fixed_dictionaries({"target": IDS}), max_size=2),
    },
)
ENDS = st.fixed_dictionaries({"source": IDS, "target": IDS})

# What can be sent to each route: a body, and what stands in its query.
BODIES: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("POST", "/memories"): MEMORY,
    ("POST", "/memories/batch"): st.fixed_dictionaries(
        {"memories": st.lists(MEMORY, min_size=1, max_size=3)}
    ),
    ("POST", "/memories/delete"): st.fixed_dictionaries({"filter": FILTERS}),
    ("POST", "/memories/search"): st.fixed_dictionaries(
        {"query": TEXTS, "hops": st.integers(0, 3)},
        optional={"filter": FILTERS, "mode": st.sampled_from(["vector", "text"])},
    ),
    ("POST", "/recall"): st.fixed_dictionaries({"query": TEXTS, "min_similarity": st.just(-1)}),
    ("PATCH", "/memories/{id}"): st.fixed_dictionaries(
        {}, optional={"content": TEXTS, "importance": st.just(1), "tags": st.just(["tag"])}
    ),
    ("POST", "/memories/{id}/supersede"): st.fixed_dictionaries({"content": TEXTS}),
    ("POST", "/relations"): ENDS,
}
# Of clients of mem0, to whichever of its routes: one that does not fit is refused.
MEM0_BODIES = st.one_of(
    st.fixed_dictionaries({"messages": TEXTS, "user_id": NAMES}),
    st.fixed_dictionaries({"query": TEXTS}, optional={"filters": st.just({"user_id": "*"})}),
    st.fixed_dictionaries({"text": TEXTS}),
    st.fixed_dictionaries(
        {"memories": st.lists(st.fixed_dictionaries({"memory_id": IDS}), min_size=1, max_size=2)}
    ),
    st.fixed_dictionaries(
        {"memories": st.lists(st.fixed_dictionaries({"memory_id": IDS, "text": TEXTS}), max_size=2)}
    ),
    st.just({}),
)
MEM0_QUERIES = st.fixed_dictionaries({}, optional={"user_id": NAMES})

QUERIES: dict[tuple[str, str], st.SearchStrategy[dict[str, Any]]] = {
    ("DELETE", "/relations"): ENDS,
    ("GET", "/memories/{id}/related"): st.fixed_dictionaries({"hops": st.integers(1, 3)}),
    ("GET", "/export"): st.fixed_dictionaries({"embeddings": st.booleans()}),
    ("GET", "/memories"): st.fixed_dictionaries(
        {}, optional={"filter": FILTERS.map(json.dumps), "limit": st.integers(1, 5)}
    ),
}


class Asked(NamedTuple):
    method: str
    path: str
    body: Any
    query: dict[str, Any]


def memory_routes() -> Iterator[tuple[str, str]]:
    scopes: tuple[Scope, ...] = ("read", "write")
    for scope in scopes:
        for handler in ROUTES[scope]:
            assert isinstance(handler, HTTPRouteHandler)
            for method in handler.http_methods:
                for path in handler.paths:
                    yield method, path.replace(":str", "")


@st.composite
def request_to_each_route(draw: st.DrawFn) -> list[Asked]:
    order = draw(st.permutations(sorted(memory_routes())))
    return [_request_to(route, draw) for route in order]


def _request_to(route: tuple[str, str], draw: st.DrawFn) -> Asked:
    method, path = route
    ids = NAMES if path.startswith(("/users", "/sessions")) else IDS
    path = path.replace("{id}", draw(ids)).replace("{kind}", "user").replace("{name}", draw(NAMES))
    if path.startswith("/mem0/"):
        return Asked(method, path, draw(MEM0_BODIES), draw(MEM0_QUERIES))
    body = draw(BODIES.get(route, st.none()))
    return Asked(method, path, body, draw(QUERIES.get(route, st.just({}))))


class Wall:
    """Two tenants, and what the other one had at first."""

    def __init__(self, http: Client) -> None:
        self._http = http
        self._other_key = self._enter()
        for id in ("a", "b", "z"):
            tags: dict[str, Any] = {"tags": [MARK], "context": f"{MARK}/herd"}
            people = {"user_id": f"{MARK}-eve", "session_id": f"{MARK}-eve"}
            remember(http, f"The stripes of {MARK} {id}.", id=id, **tags, **people)
        supersede(http, "b", f"The new stripes of a {MARK}.", id="b2", tags=[MARK])
        relate(http, "a", "z")
        self._of_other = self._everything()
        self._own_key = self._enter()
        for id in ("a", "b"):
            remember(http, f"Ada drinks tea {id}.", id=id, user_id="ada")
        relate(http, "a", "b")
        self._dump = http.get("/export", params={"embeddings": True}).content

    def ask(self, asked: Asked) -> str:
        """The answer to a request; an import is one of what we had at first."""
        self._http.headers["Authorization"] = self._own_key
        content: str | bytes | None = None if asked.body is None else json.dumps(asked.body)
        if asked.path == "/import":
            content = self._dump
        answer = self._http.request(asked.method, asked.path, content=content, params=asked.query)
        assert answer.status_code < 500, answer.text
        if asked.method == "DELETE" or asked.path.endswith(("/delete", "/reset")):
            self._http.post("/import", content=self._dump)
        return answer.text

    def other_is_untouched(self) -> bool:
        self._http.headers["Authorization"] = self._other_key
        return bool(self._everything() == self._of_other)

    def _enter(self) -> str:
        self._http.enter(unique_tenant(), "read", "write")
        return self._http.headers["Authorization"]

    def _everything(self) -> Any:
        _, *lines = self._http.get("/export", params={"embeddings": True}).text.splitlines()
        return lines, answered(self._http.get("/stats")), answered(self._http.get("/tags"))


@pytest.fixture(scope="module")
def wall(service_on_sqlite: Client) -> Wall:
    return Wall(service_on_sqlite)


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(request_to_each_route())
def test_nothing_of_another_tenant_is_read_changed_or_counted(
    wall: Wall, asked: list[Asked]
) -> None:
    for each in asked:
        answer = wall.ask(each)
        assert not [secret for secret in SECRETS if secret in answer], each
    assert wall.other_is_untouched()
