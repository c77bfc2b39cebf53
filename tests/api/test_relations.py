from typing import Any

import pytest

from tests.api.requests import Client, answered, created, refused, relate, remember, supersede


@pytest.fixture
def chain(http: Client) -> Client:
    """Memories a, b, c, d and e, of which each RELATED_TO the next one; c CAUSES a."""
    for name in "abcde":
        remember(http, f"Ada has {name}.", id=name)
    for source, target in zip("abcd", "bcde", strict=True):
        relate(http, source, target)
    relate(http, "c", "a", "CAUSES")
    return http


def related(http: Client, id: str, **parameters: Any) -> list[tuple[str, int]]:
    answer = answered(http.get(f"/memories/{id}/related", params=parameters))
    return [(each["memory"]["id"], each["hops"]) for each in answer["related"]]


def test_a_relation_is_made_as_it_is_given(http: Client) -> None:
    for name in "ab":
        remember(http, f"Ada has {name}.", id=name)
    given = {"source": "a", "target": "b", "relation_type": "SUPPORTS", "weight": 0.25}
    relation = created(http.post("/relations", json=given))
    assert relation.items() >= given.items()
    assert relation["created_at"].endswith("Z")
    (found,) = answered(http.get("/memories/b/related"))["related"]
    assert found["path"] == [relation]


def test_a_relation_that_is_there_gets_the_new_weight(http: Client) -> None:
    for name in "ab":
        remember(http, f"Ada has {name}.", id=name)
    first = relate(http, "a", "b")
    created(http.post("/relations", json={"source": "a", "target": "b", "weight": 0.5}))
    (found,) = answered(http.get("/memories/a/related"))["related"]
    assert found["path"] == [first | {"weight": 0.5}]
    assert answered(http.get("/stats"))["relations"] == 1


@pytest.mark.parametrize("ends", [("a", "absent"), ("absent", "a"), ("absent", "gone")])
def test_a_relation_needs_both_its_memories(http: Client, ends: tuple[str, str]) -> None:
    remember(http, "Ada likes tea.", id="a")
    response = http.post("/relations", json=dict(zip(("source", "target"), ends, strict=True)))
    detail = refused(response, 404, "memory_not_found")
    assert all((f"'{id}'" in detail) == (id != "a") for id in ends)
    assert answered(http.get("/stats"))["relations"] == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"target": "a"}, "from 'a' to itself"),
        ({"relation_type": "SUPERSEDES"}, "/supersede"),
        ({"relation_type": "likes"}, "`$.relation_type`"),
        ({"relation_type": "R`]->()"}, "`$.relation_type`"),
        ({"weight": -0.1}, "`$.weight`"),
        ({"weight": None}, "`$.weight`"),
        ({"source": ""}, "`$.source`"),
    ],
)
def test_a_relation_that_is_not_valid_is_refused(
    http: Client, fields: dict[str, Any], says: str
) -> None:
    for name in "ab":
        remember(http, f"Ada has {name}.", id=name)
    response = http.post("/relations", json={"source": "a", "target": "b"} | fields)
    assert says in refused(response, 422, "invalid_input")
    assert answered(http.get("/stats"))["relations"] == 0


def test_a_relation_of_one_type_is_deleted(chain: Client) -> None:
    relate(chain, "a", "b", "CAUSES")
    ends = {"source": "a", "target": "b"}
    parameters = ends | {"relation_type": "CAUSES"}
    assert answered(chain.delete("/relations", params=parameters)) == {"relations": 1}
    detail = refused(chain.delete("/relations", params=parameters), 404, "relation_not_found")
    assert "'CAUSES' from 'a' to 'b'" in detail
    assert ("b", 1) in related(chain, "a")


def test_relations_of_all_types_are_deleted_in_their_direction(chain: Client) -> None:
    relate(chain, "a", "b", "CAUSES")
    relate(chain, "b", "a", "CAUSES")
    ends = {"source": "a", "target": "b"}
    assert answered(chain.delete("/relations", params=ends)) == {"relations": 2}
    refused(chain.delete("/relations", params=ends), 404, "relation_not_found")
    assert ("b", 1) in related(chain, "a")


def test_a_relation_is_deleted_only_with_both_ends_named(http: Client) -> None:
    response = http.delete("/relations", params={"source": "a"})
    assert "target" in refused(response, 400, "bad_request")


def test_relations_are_followed_in_both_directions_the_nearest_first(chain: Client) -> None:
    assert related(chain, "a") == [("b", 1), ("c", 1)]
    assert related(chain, "a", hops=2) == [("b", 1), ("c", 1), ("d", 2)]
    assert related(chain, "e", hops=3) == [("d", 1), ("c", 2), ("a", 3), ("b", 3)]


def test_the_path_leads_from_the_memory_to_the_related_one(chain: Client) -> None:
    answer = answered(chain.get("/memories/e/related", params={"hops": 3}))
    for found in answer["related"]:
        at = "e"
        for relation in found["path"]:
            assert at in (relation["source"], relation["target"])
            at = relation["target"] if at == relation["source"] else relation["source"]
        assert at == found["memory"]["id"]
        assert len(found["path"]) == found["hops"]


def test_only_relations_of_the_types_that_are_asked_for_are_followed(chain: Client) -> None:
    assert related(chain, "a", hops=3, relation_type="CAUSES") == [("c", 1)]
    assert related(chain, "a", relation_type=["CAUSES", "RELATED_TO"]) == [("b", 1), ("c", 1)]
    assert related(chain, "a", relation_type="SUPPORTS") == []


def test_the_limit_of_related_memories_is_kept(chain: Client) -> None:
    assert related(chain, "a", hops=3, limit=1) == [("b", 1)]
    assert related(chain, "a", hops=3, limit=3) == [("b", 1), ("c", 1), ("d", 2)]


def test_the_stronger_relation_comes_first(http: Client) -> None:
    for name in "abc":
        remember(http, f"Ada has {name}.", id=name)
    created(http.post("/relations", json={"source": "a", "target": "b", "weight": 0.5}))
    created(http.post("/relations", json={"source": "c", "target": "a", "weight": 0.9}))
    assert related(http, "a") == [("c", 1), ("b", 1)]


def test_a_superseded_memory_is_not_on_the_way_except_as_of_its_time(chain: Client) -> None:
    before = answered(chain.get("/memories/e"))["valid_from"]
    supersede(chain, "d", "Ada has another d.")
    assert related(chain, "c") == [("a", 1), ("b", 1)]
    assert related(chain, "e", hops=3) == []
    assert related(chain, "c", as_of=before) == [("a", 1), ("b", 1), ("d", 1)]


def test_what_is_related_to_a_memory_that_is_not_there_is_not_found(chain: Client) -> None:
    refused(chain.get("/memories/nowhere/related"), 404, "memory_not_found")
    early = {"as_of": "2020-01-01T00:00:00Z"}
    refused(chain.get("/memories/a/related", params=early), 404, "memory_not_found")


@pytest.mark.parametrize(("name", "value"), [("hops", 0), ("hops", 4), ("limit", 101)])
def test_a_parameter_of_related_is_within_its_range(chain: Client, name: str, value: int) -> None:
    response = chain.get("/memories/a/related", params={name: value})
    assert refused(response, 400, "bad_request").startswith(f"query {name}: ")
