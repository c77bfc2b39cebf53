import base64
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.api.requests import (
    Client,
    answered,
    refused,
    relate,
    remember,
    search,
    serving,
    supersede,
)
from tests.memory.memories import unique_tenant

LATER = "2100-01-01T00:00:00Z"


@pytest.fixture
def filled(http: Client) -> Client:
    """Memories with everything that a memory can have, relations and a history."""
    remember(
        http,
        "Ada likes tea.",
        id="tea",
        title="Drinks",
        memory_type="preference",
        tags=["drinks", "täglich"],
        metadata={"a": [1, {"b": None}], "ü": 0.1},
        importance=0.7,
        context="home/kitchen",
        user_id="ada",
        agent_id="butler",
        session_id="monday",
        valid_from="2026-01-01T00:00:00.123456Z",
        expires_at=LATER,
    )
    supersede(http, "tea", "Ada likes coffee.", id="coffee")
    supersede(http, "coffee", "Ada likes water.", id="water")
    remember(http, "Ada has a kettle.\nIt is blue. ☕ \U0001f375", id="kettle")
    relate(http, "kettle", "tea", "REFERS_TO")
    relate(http, "kettle", "water")
    relate(http, "water", "kettle")
    answered(http.patch("/memories/kettle", json={"importance": 0.9}))
    return http


@pytest.fixture
def elsewhere(http: Client) -> Callable[[], None]:
    """Makes the service that of a tenant who has nothing."""

    def enter() -> None:
        http.enter(unique_tenant())

    return enter


def export(http: Client, *, embeddings: bool = True) -> list[Any]:
    """The lines of an export, without the header."""
    response = http.get("/export", params={"embeddings": embeddings})
    assert response.headers["content-type"].startswith("application/x-ndjson")
    header, *lines = map(json.loads, response.text.splitlines())
    assert header.keys() == {"type", "format", "exported_at", "embedding_model"}
    return lines


def exported(http: Client, *, embeddings: bool = True) -> bytes:
    return http.get("/export", params={"embeddings": embeddings}).content


def imported(http: Client, content: Any) -> Any:
    """The last line of an import's answer, without the counts that are zero."""
    response = http.post("/import", content=content)
    assert response.status_code == 200, response.text
    *before, last = map(json.loads, response.text.splitlines())
    assert not any(line["done"] or line["error"] for line in before)
    return {name: value for name, value in last.items() if value}


def test_an_export_has_the_memories_by_id_and_then_their_relations(filled: Client) -> None:
    lines = export(filled)
    assert [line["type"] for line in lines] == ["memory"] * 4 + ["relation"] * 5
    assert [line["id"] for line in lines[:4]] == ["coffee", "kettle", "tea", "water"]
    assert {line["relation_type"] for line in lines[4:]} == {
        "REFERS_TO",
        "RELATED_TO",
        "SUPERSEDES",
    }
    for line in lines[:4]:
        embedding = np.frombuffer(base64.b64decode(line.pop("embedding")), "<f4")
        assert embedding.shape == (384,)
        assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-3)
        assert line.pop("type") == "memory"
        assert line == answered(filled.get(f"/memories/{line['id']}"))


def test_an_export_is_without_embeddings_unless_they_are_asked_for(filled: Client) -> None:
    assert "embedding" not in filled.get("/export").text.split("\n", 1)[1]
    assert exported(filled, embeddings=False).count(b"\n") == 10


def test_what_was_exported_comes_back_as_it_was(
    filled: Client, elsewhere: Callable[[], None]
) -> None:
    before, dump = export(filled), exported(filled)
    elsewhere()
    ending = imported(filled, dump)
    assert ending == {"lines": 10, "created": 4, "relations": 5, "done": True}
    assert export(filled) == before
    assert answered(filled.get("/stats"))["current"] == 2
    history = answered(filled.get("/memories/tea/history"))["memories"]
    assert [memory["id"] for memory in history] == ["tea", "coffee", "water"]
    assert search(filled, "What does Ada like?", limit=1) == ["water"]
    assert search(filled, "blue kettle", mode="text") == ["kettle"]


def test_importing_twice_changes_nothing(filled: Client, elsewhere: Callable[[], None]) -> None:
    dump = exported(filled)
    elsewhere()
    imported(filled, dump)
    before = export(filled)
    ending = imported(filled, dump)
    assert ending == {"lines": 10, "unchanged": 4, "relations": 5, "done": True}
    assert export(filled) == before


def test_embeddings_are_made_where_the_export_has_none(
    filled: Client, elsewhere: Callable[[], None]
) -> None:
    before, dump = export(filled), exported(filled, embeddings=False)
    elsewhere()
    assert imported(filled, dump)["embedded"] == 4
    for line, original in zip(export(filled), before, strict=True):
        if line["type"] == "memory":
            one, other = (
                np.frombuffer(base64.b64decode(each.pop("embedding")), "<f4")
                for each in (line, original)
            )
            assert one @ other > 0.999
        assert line == original


def test_embeddings_of_another_model_are_made_anew(
    filled: Client, elsewhere: Callable[[], None]
) -> None:
    before, dump = export(filled), exported(filled)
    header, rest = dump.split(b"\n", 1)
    other = json.loads(header)
    other["embedding_model"]["digest"] = "0" * 64
    zeros = base64.b64encode(np.eye(1, 384, dtype="<f4").tobytes())
    for line in before:
        if line["type"] == "memory":
            rest = rest.replace(line["embedding"].encode(), zeros)
    elsewhere()
    ending = imported(filled, json.dumps(other).encode() + b"\n" + rest)
    assert (ending["created"], ending["embedded"]) == (4, 4)
    assert search(filled, "What does Ada like?", mode="vector", limit=1) == ["water"]


def test_a_store_that_has_part_of_it_gets_the_rest(
    filled: Client, elsewhere: Callable[[], None]
) -> None:
    before = export(filled)
    lines = exported(filled).splitlines(keepends=True)
    elsewhere()
    imported(filled, b"".join(lines[:3]))
    assert answered(filled.get("/stats"))["memories"] == 2
    ending = imported(filled, b"".join(lines))
    assert ending["created"] == ending["unchanged"] == 2
    assert export(filled) == before


def test_what_was_changed_since_is_kept(filled: Client, elsewhere: Callable[[], None]) -> None:
    dump = exported(filled)
    elsewhere()
    imported(filled, dump)
    answered(filled.patch("/memories/kettle", json={"importance": 0.1}))
    ending = imported(filled, dump)
    assert (ending["kept"], ending["unchanged"]) == (1, 3)
    assert answered(filled.get("/memories/kettle"))["importance"] == 0.1


def test_what_is_older_is_replaced(filled: Client, elsewhere: Callable[[], None]) -> None:
    dump = exported(filled)
    answered(filled.patch("/memories/kettle", json={"content": "Zebras have stripes."}))
    newer = exported(filled)
    elsewhere()
    imported(filled, dump)
    ending = imported(filled, newer)
    assert (ending["replaced"], ending["unchanged"]) == (1, 3)
    assert search(filled, "striped animals", mode="vector", limit=1) == ["kettle"]
    assert search(filled, "blue", mode="text") == []


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (b"{", "line 4: "),
        (b"[]", "line 4: "),
        (b"\xff\xfe", "line 4: "),
        (b'{"type": "nonsense"}', "line 4: "),
        (b'{"type": "memory", "id": "x"}', "line 4: Object missing required field"),
        (b'{"type": "tenant", "tenant": "other"}', "this dump is of several tenants"),
    ],
)
def test_an_import_says_which_line_is_broken_and_keeps_what_came_before(
    filled: Client, elsewhere: Callable[[], None], broken: bytes, says: str
) -> None:
    lines = exported(filled).splitlines(keepends=True)
    elsewhere()
    ending = imported(filled, b"".join([*lines[:3], broken, b"\n", *lines[3:]]))
    assert says in ending["error"]["detail"]
    assert ending["error"]["code"] == "invalid_input"
    assert "done" not in ending
    assert ending["created"] == answered(filled.get("/stats"))["memories"] == 2
    assert imported(filled, b"".join(lines))["done"]
    assert answered(filled.get("/stats"))["memories"] == 4


@pytest.mark.parametrize(
    "changed",
    [
        {"content": ""},
        {"importance": 7},
        {"tags": ["\x00"]},
        {"id": "no spaces"},
        {"metadata": {"n": 2**64}},
        {"metadata": {"text": "x" * 20_000}},
        {"embedding": "AAAA"},
        {"embedding": base64.b64encode(bytes(4 * 384)).decode()},
        {"embedding": base64.b64encode(b"\xff" * 4 * 384).decode()},
        {"created_at": "0001-01-01T00:00:00+14:00"},
    ],
)
def test_an_import_holds_memories_to_what_clients_are_held_to(
    filled: Client, elsewhere: Callable[[], None], changed: dict[str, Any]
) -> None:
    header, first, *_ = exported(filled).splitlines()
    elsewhere()
    line = json.dumps(json.loads(first) | changed).encode()
    ending = imported(filled, b"\n".join([header, line]))
    assert ending["error"]["code"] == "invalid_input"
    assert ending["error"]["detail"].startswith("line 2: ")
    assert answered(filled.get("/stats"))["memories"] == 0


def test_a_relation_without_one_of_its_memories_is_dropped(
    filled: Client, elsewhere: Callable[[], None]
) -> None:
    lines = exported(filled).splitlines(keepends=True)
    elsewhere()
    without_kettle = [line for line in lines if b'"id":"kettle"' not in line]
    ending = imported(filled, b"".join(without_kettle))
    assert (ending["created"], ending["relations"], ending["dropped"]) == (3, 2, 3)
    assert ending["done"]


def test_blank_lines_and_other_line_ends_are_taken(
    filled: Client, elsewhere: Callable[[], None]
) -> None:
    dump = exported(filled)
    elsewhere()
    ending = imported(filled, dump.replace(b"\n", b"\r\n\r\n"))
    assert (ending["created"], ending["relations"]) == (4, 5)


def test_an_import_of_nothing_imports_nothing(http: Client) -> None:
    assert imported(http, b"") == {"done": True}


def test_a_line_that_never_ends_is_refused(http: Client) -> None:
    ending = imported(http, b" " * 700_000)
    assert "expected lines of at most" in ending["error"]["detail"]


def test_an_import_may_be_longer_than_any_other_body(
    http: Client, elsewhere: Callable[[], None]
) -> None:
    memories = [{"content": f"note {number}"} for number in range(700)]
    answered(http.post("/memories/batch", json={"memories": memories}))
    before = export(http)
    lines = exported(http).splitlines()
    elsewhere()

    def body() -> Iterator[bytes]:
        for line in lines:
            yield line + b" " * 50_000 + b"\n"

    assert sum(map(len, body())) > 32 * 1024 * 1024
    ending = imported(http, body())
    assert ending["created"] == 700
    assert export(http) == before


def test_an_export_is_loaded_by_a_service_with_another_model(
    filled: Client, prompted_bundle: Path, tmp_path: Path
) -> None:
    dump = exported(filled)
    with serving(prompted_bundle, f"sqlite:///{tmp_path}/memory.db") as other:
        assert imported(other, dump)["embedded"] == 4
        assert search(other, "What does Ada like?", limit=1) == ["water"]


def test_an_import_that_finds_no_room_is_refused(
    http: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    response = http.post("/import", content=b"{}")
    assert "No such file or directory" in refused(response, 503, "store_unavailable")
    assert answered(http.get("/stats"))["memories"] == 0


def test_an_import_is_bounded_before_it_is_read(http: Client) -> None:
    headers = {"Content-Length": str(17 << 30)}
    response = http.post("/import", content=b"{}", headers=headers)
    assert "at most 17,179,869,184 bytes" in refused(response, 413, "body_too_large")
