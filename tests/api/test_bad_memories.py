import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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

SYNTAX = [
    "'; DROP TABLE memories; --",
    '" OR 1=1 --',
    "x' UNION SELECT tenant FROM memories",
    "MATCH (n) DETACH DELETE n",
    "`}) DETACH DELETE n //",
    "$tenant {tenant} %s ? :name",
    "tea* AND NOT (title:x^2 OR content:~) [a TO z]",
    'NEAR("tea" kettle, 5) {content}: -tea +x',
    "AND OR NOT NEAR",
    '"',
    "\\",
    "%_",
    "/regex.*/",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "null",
]
SURROGATE = b'"\\ud800"'
POSTS = {
    "/memories": "content",
    "/memories/batch": "memories",
    "/memories/delete": "filter",
    "/memories/search": "query",
    "/memories/a/supersede": "content",
    "/recall": "query",
    "/relations": "source",
}


def everything(http: Client) -> Any:
    _, *lines = http.get("/export").text.splitlines()
    return answered(http.get("/stats")), lines


@contextmanager
def unchanged(http: Client) -> Iterator[None]:
    """Holds that nothing is written."""
    before = everything(http)
    yield
    assert everything(http) == before


def nested(levels: int) -> bytes:
    """A filter of so many levels, which no encoder of ours would write."""
    return b'{"not": ' * levels + b'{"user_id": "ada"}' + b"}" * levels


@pytest.fixture
def filled(http: Client) -> Client:
    """Memories a and b, of which a is related to b."""
    for name in "ab":
        remember(http, f"Ada has {name}.", id=name, tags=["x"], context="home", user_id="ada")
    relate(http, "a", "b")
    return http


@pytest.mark.parametrize("levels", [17, 1_000, 100_000])
def test_a_filter_that_is_nested_too_deeply_is_refused(filled: Client, levels: int) -> None:
    for path in ("/memories/search", "/recall", "/memories/delete"):
        query = b'"query": "tea", ' if path != "/memories/delete" else b""
        body = b"{" + query + b'"filter": ' + nested(levels) + b"}"
        with unchanged(filled):
            response = filled.post(path, content=body)
        assert response.status_code == 422
        assert "nest" in response.json()["detail"]
    response = filled.get("/memories", params={"filter": nested(min(levels, 1_000)).decode()})
    assert "nest" in refused(response, 422, "invalid_filter")


def test_a_filter_of_too_many_conditions_is_refused(filled: Client) -> None:
    given = {"any": [{"importance": number} for number in range(600)]}
    with unchanged(filled):
        response = filled.post("/memories/delete", json={"filter": given})
    assert "at most 512 conditions" in refused(response, 422, "invalid_filter")


@pytest.mark.parametrize("path", POSTS)
def test_a_body_of_ten_megabytes_of_text_is_refused(filled: Client, path: str) -> None:
    text = "tea " * 2_500_000
    memory = {"content": text}
    body = {POSTS[path]: [memory] if path == "/memories/batch" else text}
    with unchanged(filled):
        refused(filled.post(path, json=body), 422, "invalid_input")


def test_a_body_above_the_limit_is_refused_with_the_limit(filled: Client) -> None:
    with unchanged(filled):
        response = filled.post("/memories", content=b" " * (32 * 1024 * 1024 + 1))
    assert "33,554,432 bytes" in refused(response, 413, "body_too_large")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b'{"content": NaN', b"[" * 100_000, b'"\\ud800"']
)
def test_what_is_not_the_json_that_is_expected_is_refused(
    filled: Client, path: str, body: bytes
) -> None:
    with unchanged(filled):
        response = filled.post(path, content=body)
    assert response.status_code in (400, 422)
    assert response.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/memories", b'{"content": %s}'),
        ("/memories", b'{"content": "a", "tags": [%s]}'),
        ("/memories", b'{"content": "a", "metadata": {%s: 1}}'),
        ("/memories/batch", b'{"memories": [{"content": %s}]}'),
        ("/memories/a/supersede", b'{"content": %s}'),
        ("/memories/search", b'{"query": %s}'),
        ("/memories/search", b'{"query": "a", "filter": {"title": %s}}'),
        ("/memories/delete", b'{"filter": {"title": %s}}'),
        ("/recall", b'{"query": %s}'),
        ("/relations", b'{"source": %s, "target": "b"}'),
    ],
)
def test_a_lone_surrogate_is_refused(filled: Client, path: str, body: bytes) -> None:
    with unchanged(filled):
        response = filled.post(path, content=body.replace(b"%s", SURROGATE))
    assert "surrogate" in refused(response, 422, "invalid_input")


@pytest.mark.parametrize(
    "content",
    [
        "a\x00b",
        "\x00",
        "\x01\x02\x7f\x85",
        "\ufeffbyte order mark",
        "\ufffe\uffff",
        "\u202eright to left",
        "e\u0301 and \u00e9",
        "\U0010ffff",
        "a\r\nb\u2028c",
        *SYNTAX,
    ],
)
def test_any_content_is_kept_to_the_letter(filled: Client, content: str) -> None:
    metadata = {content: content, "list": [content]}
    response = filled.post("/memories", json={"content": content, "metadata": metadata})
    memory = created(response)
    read = answered(filled.get(f"/memories/{memory['id']}"))
    assert (read["content"], read["metadata"]) == (content, metadata)
    again = filled.post("/memories", json={"content": content})
    assert answered(again)["duplicate"]
    assert answered(filled.get("/stats"))["memories"] == 3
    given = {f"metadata.{content}": content}
    assert search(filled, "anything", filter=given) == [memory["id"]]
    assert answered(filled.post("/memories/delete", json={"filter": given}))["memories"] == 1


@pytest.mark.parametrize("text", SYNTAX)
def test_a_name_is_never_syntax(filled: Client, text: str) -> None:
    context = text.replace("/", "_")
    fields = {"title": text, "tags": [text], "memory_type": text[:64], "context": context}
    scope = {"user_id": text, "agent_id": text, "session_id": text}
    memory = remember(filled, "Ada has a kettle.", **fields, **scope)
    assert memory.items() >= (fields | scope).items()
    for name, value in (fields | scope | {"tags": text}).items():
        assert search(filled, "anything", filter={name: value}) == [memory["id"]]
    assert search(filled, "anything", filter={"context": {"under": context}}) == [memory["id"]]
    of_it = {"filter": json.dumps({"user_id": text})}
    assert answered(filled.get("/tags", params=of_it))["tags"] == [{"name": text, "memories": 1}]
    assert answered(filled.get("/stats"))["memories"] == 3


@pytest.mark.parametrize("text", [*SYNTAX, "a\x00b", "\x00"])
def test_a_query_and_a_filters_value_are_never_syntax(filled: Client, text: str) -> None:
    remember(filled, f"Ada wrote {text} into her diary.", id="diary")
    with unchanged(filled):
        for mode in ("hybrid", "vector", "text"):
            found = search(filled, text, mode=mode)
            assert len(found) == (3 if mode != "text" else len(set(found)))
        answered(filled.post("/recall", json={"query": text}))
        for name in ("id", "title", "user_id", "tags", "context", "metadata.a"):
            assert search(filled, "anything", filter={name: text}) == []
        deleted = filled.post("/memories/delete", json={"filter": {"user_id": text}})
        assert answered(deleted)["memories"] == 0


@pytest.mark.parametrize("text", [*SYNTAX, "a\x00b", "", " ", "é", "a" * 129])
def test_an_id_that_is_not_one_is_refused_or_not_found(filled: Client, text: str) -> None:
    with unchanged(filled):
        if text != "null":
            response = filled.post("/memories", json={"content": "a", "id": text})
            refused(response, 422, "invalid_input")
        missing = filled.delete("/relations", params={"source": text, "target": "b"})
        refused(missing, 404, "relation_not_found")
        if "/" not in text and text:
            path = "/memories/" + "".join(f"%{byte:02x}" for byte in text.encode())
            refused(filled.get(path), 404, "memory_not_found")
            refused(filled.delete(path), 404, "memory_not_found")
            refused(filled.get(f"{path}/history"), 404, "memory_not_found")


@pytest.mark.parametrize("name", ["tags", "title", "memory_type", "user_id", "context"])
@pytest.mark.parametrize("text", ["a\x00b", "a\nb", "", "x" * 600])
def test_a_name_with_control_characters_or_without_end_is_refused(
    filled: Client, name: str, text: str
) -> None:
    value = [text] if name == "tags" else text
    with unchanged(filled):
        response = filled.post("/memories", json={"content": "a", name: value})
        assert f"`$.{name}" in refused(response, 422, "invalid_input")


def test_following_a_cycle_of_relations_ends(filled: Client) -> None:
    remember(filled, "Ada has c.", id="c")
    for source, target in ("ba", "bc", "cb", "ca", "ac"):
        relate(filled, source, target)
    found = answered(filled.get("/memories/a/related", params={"hops": 3}))["related"]
    assert {(each["memory"]["id"], each["hops"]) for each in found} == {("b", 1), ("c", 1)}
    answered(filled.post("/memories/search", json={"query": "a", "limit": 1, "hops": 3}))


def test_a_memory_cannot_supersede_itself_or_its_predecessor(filled: Client) -> None:
    with unchanged(filled):
        body = {"content": "Ada has more.", "id": "a"}
        refused(filled.post("/memories/a/supersede", json=body), 409, "conflict")
    supersede(filled, "a", "Ada has more.", id="a2")
    with unchanged(filled):
        body = {"content": "Ada has less.", "id": "a"}
        refused(filled.post("/memories/a2/supersede", json=body), 409, "conflict")


def test_an_imported_cycle_of_supersession_does_not_hold_up_anything(filled: Client) -> None:
    supersede(filled, "a", "Ada has more.", id="a2")
    line = {
        "type": "relation",
        "relation_type": "SUPERSEDES",
        "source": "a",
        "target": "a2",
        "weight": 1.0,
        "created_at": "2026-01-01T00:00:00Z",
    }
    response = filled.post("/import", content=json.dumps(line))
    assert response.status_code == 200
    for path in ("/memories/a/history", "/memories/a2/history"):
        ids = [memory["id"] for memory in answered(filled.get(path))["memories"]]
        assert sorted(ids) == ["a", "a2"]
    assert answered(filled.post("/memories/delete", json={"filter": {"all": []}}))["memories"] == 3
    assert set(answered(filled.get("/stats")).values()) == {0}


@pytest.mark.parametrize(
    "value", [2**63, -(2**63) - 1, {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": 1}}}}}}}}]
)
def test_metadata_that_not_every_store_can_keep_is_refused(filled: Client, value: Any) -> None:
    with unchanged(filled):
        response = filled.post("/memories", json={"content": "a", "metadata": {"value": value}})
        assert "metadata" in refused(response, 422, "invalid_input")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=6) | st.sampled_from(["all", "any", "not"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
fields = st.sampled_from(
    [
        *("content", "memories", "query", "filter", "source", "target", "relation_type", "weight"),
        *("id", "tags", "metadata", "title", "importance", "context", "user_id", "valid_from"),
        *("expires_at", "relations", "on_conflict", "limit", "hops", "mode", "as_of", "dry_run"),
        *("min_similarity", "max_tokens"),
    ]
)
sensible = st.sampled_from(
    [
        *("a", "b", "text", "2026-01-01T00:00Z", "replace", "CAUSES", 0, 1, 0.5, True),
        *(["x"], {}, {"all": []}, {"tags": "x"}, [{"content": "c"}], [{"target": "a"}]),
    ]
)


@pytest.mark.parametrize("path", POSTS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=json_values | st.dictionaries(fields, json_values | sensible, max_size=5),
    required=sensible,
)
def test_any_json_is_carried_out_or_refused_and_never_breaks(
    filled: Client, path: str, body: Any, required: Any
) -> None:
    if isinstance(body, dict):
        body = {POSTS[path]: required} | body
    before = everything(filled)
    response = filled.post(path, content=json.dumps(body))
    assert response.status_code in (200, 201, 400, 404, 409, 422), response.text
    if response.status_code >= 400:
        assert response.json()["detail"]
        assert everything(filled) == before


@pytest.mark.parametrize("content", ["", " ", "\n\t ", "\u2003"])
def test_content_without_anything_to_read_is_refused(http: Client, content: str) -> None:
    response = http.post("/memories", json={"content": content})
    assert response.status_code == 422
    assert answered(http.get("/stats"))["memories"] == 0


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
def test_a_compressed_body_is_refused(http: Client, encoding: str) -> None:
    body = gzip.compress(b'{"content": "Ada drinks tea."}')
    for path in ("/memories", "/import", "/v1/embeddings"):
        response = http.post(path, content=body, headers={"Content-Encoding": encoding})
        assert response.status_code == 415
        assert f"expected a body without Content-Encoding, got {encoding}" in response.text
