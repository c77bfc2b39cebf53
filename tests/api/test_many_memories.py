import json
from typing import Any

import pytest

from tests.api.requests import Client, answered, refused, relate, remember, supersede

ORDERS = ("created_at", "updated_at", "importance")


def batch(http: Client, *memories: Any) -> Any:
    return answered(http.post("/memories/batch", json={"memories": memories}))


def pages(http: Client, **parameters: Any) -> list[str]:
    """The ids of all pages."""
    ids: list[str] = []
    while True:
        page = answered(http.get("/memories", params=parameters))
        assert len(page["memories"]) <= parameters["limit"]
        ids += [memory["id"] for memory in page["memories"]]
        if page["next_cursor"] is None:
            return ids
        parameters["cursor"] = page["next_cursor"]


def listed(http: Client, **parameters: Any) -> list[str]:
    page = answered(http.get("/memories", params=parameters))
    return [memory["id"] for memory in page["memories"]]


def test_a_batch_says_what_became_of_each_memory_in_order(http: Client) -> None:
    for name in ("tea", "cake"):
        remember(http, f"Ada likes {name}.", id=name)
    there = remember(http, "Ada has a kettle.")
    answer = batch(
        http,
        {"content": "Ada likes milk."},
        {"content": "Ada likes coffee.", "id": "tea"},
        {"content": "Ada has a kettle."},
        {"content": "Ada likes cake.", "id": "cake"},
        {"content": "Ada has a cup.", "relations": [{"target": "absent"}]},
    )
    created, conflict, duplicate, unchanged, missing = answer["results"]
    assert (created["outcome"], created["error"]) == ("created", None)
    assert created["memory"]["content"] == "Ada likes milk."
    assert conflict["outcome"] == conflict["error"]["code"] == "conflict"
    assert conflict["memory"]["content"] == "Ada likes tea."
    assert "on_conflict" in conflict["error"]["detail"]
    assert duplicate["memory"] == there | {"duplicate": True}
    assert (unchanged["outcome"], unchanged["memory"]["id"]) == ("unchanged", "cake")
    assert (missing["memory"], missing["error"]["code"]) == (None, "missing_target")
    assert "'absent'" in missing["error"]["detail"]
    assert answer["counts"] == dict.fromkeys(
        ("created", "conflict", "duplicate", "unchanged", "missing_target"), 1
    )
    assert answered(http.get("/stats"))["memories"] == 4


def test_a_memory_of_a_batch_can_relate_to_one_before_it(http: Client) -> None:
    first = {"content": "Ada likes tea.", "id": "a"}
    second = {"content": "Ada has a kettle.", "id": "b", "relations": [{"target": "a"}]}
    assert batch(http, first, second)["counts"] == {"created": 2}
    assert batch(http, first | {"id": "d", "relations": [{"target": "e"}]}, second | {"id": "e"})[
        "counts"
    ] == {"missing_target": 1, "created": 1}


def test_the_same_content_twice_in_a_batch_is_kept_once(http: Client) -> None:
    first, second = batch(http, {"content": "Tea."}, {"content": "Tea."})["results"]
    assert (first["outcome"], second["outcome"]) == ("created", "duplicate")
    assert first["memory"]["id"] == second["memory"]["id"]


@pytest.mark.parametrize(
    ("memories", "says"),
    [
        ([], "`$.memories`"),
        ([{"content": "a"}, {"content": ""}], "`$.memories[1].content`"),
        ([{"content": "a"}, {"content": "b", "metadata": {"n": 2**64}}], "64 bits"),
        ([{"content": "a"}, {"content": "tea " * 400}], "text 1"),
        ([{"content": "a", "id": "x"}, {"content": "b", "id": "x"}], "got 'x' twice"),
    ],
)
def test_a_batch_that_is_not_valid_is_not_written_at_all(
    http: Client, memories: Any, says: str
) -> None:
    response = http.post("/memories/batch", json={"memories": memories})
    assert response.status_code == 422
    assert says in response.json()["detail"]
    assert answered(http.get("/stats"))["memories"] == 0


def test_a_batch_has_a_thousand_memories_at_most(http: Client) -> None:
    memories = [{"content": f"note {number}"} for number in range(1_001)]
    response = http.post("/memories/batch", json={"memories": memories})
    assert "1000" in refused(response, 422, "invalid_input")
    answer = batch(http, *memories[:1_000])
    assert answer["counts"] == {"created": 1_000}
    assert [each["memory"]["content"] for each in answer["results"]] == [
        memory["content"] for memory in memories[:1_000]
    ]


def test_a_memory_of_a_batch_may_be_cut_where_it_says_so(http: Client) -> None:
    answer = batch(http, {"content": "tea " * 400, "truncate": True}, {"content": "short"})
    assert [each["memory"]["truncated"] for each in answer["results"]] == [True, False]


def test_pages_hold_every_memory_once(http: Client) -> None:
    batch(http, *({"content": f"note {number}"} for number in range(11)))
    ids = pages(http, limit=3)
    assert len(ids) == len(set(ids)) == 11
    assert pages(http, limit=11) == ids


@pytest.mark.parametrize("field", ORDERS)
def test_pages_follow_the_order_that_is_asked_for(http: Client, field: str) -> None:
    batch(
        http,
        *({"content": f"note {number}", "importance": number % 3 / 2} for number in range(7)),
    )
    remember(http, "the last note")
    first = answered(http.get("/memories", params={"limit": 1}))["memories"][0]
    answered(http.patch(f"/memories/{first['id']}", json={"importance": 0.25}))
    memories = answered(http.get("/memories"))["memories"]
    expected = [
        memory["id"] for memory in sorted(memories, key=lambda each: (each[field], each["id"]))
    ]
    assert pages(http, limit=2, order=field) == expected
    assert pages(http, limit=2, order=f"-{field}") == expected[::-1]


def test_the_newest_come_first_where_no_order_is_asked_for(http: Client) -> None:
    ids = [remember(http, f"note {number}")["id"] for number in range(3)]
    assert listed(http) == ids[::-1]


def test_pages_are_stable_while_others_write(http: Client) -> None:
    there = [remember(http, f"note {number}", id=f"n{number}")["id"] for number in range(9)]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for turn in range(5):
        page = answered(http.get("/memories", params={"limit": 2, **cursor}))
        seen += [memory["id"] for memory in page["memories"]]
        cursor = {"cursor": page["next_cursor"]}
        remember(http, f"written at turn {turn}")
        answered(http.patch(f"/memories/{seen[-1]}", json={"importance": 1}))
        answered(http.delete(f"/memories/{seen[-1]}"))
    assert seen == there[::-1]
    assert cursor == {"cursor": None}


def test_a_cursor_is_good_for_its_order_only(http: Client) -> None:
    batch(http, {"content": "a"}, {"content": "b"})
    cursor = answered(http.get("/memories", params={"limit": 1}))["next_cursor"]
    response = http.get("/memories", params={"cursor": cursor, "order": "importance"})
    detail = refused(response, 422, "invalid_input")
    assert "order=-created_at" in detail
    assert "order=importance" in detail


@pytest.mark.parametrize(
    "cursor",
    ["nonsense", "ä", "W10", "bnVsbA", "WyItY3JlYXRlZF9hdCIsMWU0MDAsImEiXQ", "A", "=" * 7],
)
def test_a_cursor_that_is_not_one_is_refused(http: Client, cursor: str) -> None:
    response = http.get("/memories", params={"cursor": cursor})
    assert "next_cursor" in refused(response, 422, "invalid_input")


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", 0), ("limit", 1_001), ("limit", "many"), ("order", "content")],
)
def test_a_parameter_that_is_not_valid_is_named(http: Client, name: str, value: Any) -> None:
    response = http.get("/memories", params={name: value})
    assert refused(response, 400, "bad_request").startswith(f"query {name}: ")


@pytest.mark.parametrize("as_of", ["then", "0.5", "1767225600", "2026-01-01", ""])
def test_a_time_that_is_not_one_is_refused(http: Client, as_of: str) -> None:
    response = http.get("/memories", params={"as_of": as_of})
    assert "as_of: expected a time" in refused(response, 422, "invalid_input")


def test_a_list_holds_what_passes_the_filter(http: Client) -> None:
    remember(http, "Ada likes tea.", id="a", tags=["tea"], importance=0.9)
    remember(http, "Ada likes milk.", id="b", tags=["milk"], importance=0.1)
    remember(http, "Ada has a kettle.", id="c", tags=["tea"], importance=0.1)
    filters = {"tags": "tea", "importance": {"lt": 0.5}}
    assert listed(http, filter=json.dumps(filters)) == ["c"]
    assert pages(http, filter=json.dumps({"tags": "tea"}), limit=1) == ["c", "a"]


@pytest.mark.parametrize("given", ["{", "[]", '{"nonsense": 1}', '{"tags": {"gt": "a"}}', ""])
def test_a_filter_that_is_not_one_is_refused(http: Client, given: str) -> None:
    for path in ("/memories", "/tags", "/contexts"):
        detail = refused(http.get(path, params={"filter": given}), 422, "invalid_filter")
        assert detail.startswith("filter")


def test_a_list_holds_what_is_valid_at_its_time(http: Client) -> None:
    old = remember(http, "Ada likes tea.", id="old", valid_from="2026-01-01T00:00:00Z")
    supersede(http, old["id"], "Ada likes coffee.", id="new", valid_from="2026-02-01T00:00:00Z")
    remember(http, "Ada will like water.", id="next", valid_from="2100-01-01T00:00:00Z")
    assert listed(http) == ["new"]
    assert listed(http, as_of="2026-01-10T00:00:00Z") == ["old"]
    assert listed(http, as_of="2100-01-10T00:00:00+01:00") == ["next", "new"]
    assert listed(http, include_superseded=True, order="created_at") == ["old", "new", "next"]
    assert listed(http, as_of="2025-01-01T00:00:00Z") == []


def test_many_memories_are_forgotten_after_they_were_counted(http: Client) -> None:
    for name in ("a", "b", "c"):
        remember(http, f"Ada has {name}.", id=name, tags=["draft"] if name != "c" else [])
    relate(http, "a", "b")
    relate(http, "b", "c")
    supersede(http, "a", "Ada has a, still.", id="a2")
    body = {"filter": {"tags": "draft"}, "dry_run": True}
    counted = answered(http.post("/memories/delete", json=body))
    assert counted == {"memories": 3, "relations": 2, "dry_run": True}
    assert answered(http.get("/stats"))["memories"] == 4
    deleted = answered(http.post("/memories/delete", json=body | {"dry_run": False}))
    assert deleted == counted | {"dry_run": False}
    assert listed(http, include_superseded=True) == ["c"]
    assert answered(http.get("/stats"))["relations"] == 0


def test_everything_is_forgotten_only_where_that_is_said(http: Client) -> None:
    remember(http, "Ada likes tea.")
    detail = refused(http.post("/memories/delete", json={"filter": {}}), 422, "invalid_filter")
    assert '{"all": []}' in detail
    refused(http.post("/memories/delete", json={}), 422, "invalid_input")
    everything = http.post("/memories/delete", json={"filter": {"all": []}})
    assert answered(everything)["memories"] == 1
    assert listed(http) == []
