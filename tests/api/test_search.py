from typing import Any

import pytest

from tests.api.requests import Client, answered, refused, relate, remember, search, supersede

MODES = ("hybrid", "vector", "text")


def results(http: Client, query: str, **fields: Any) -> list[Any]:
    body = {"query": query, **fields}
    found: list[Any] = answered(http.post("/memories/search", json=body))["results"]
    return found


def related(http: Client, query: str, **fields: Any) -> list[tuple[str, int]]:
    """Which memories come besides the results, and by how many relations."""
    answer = answered(http.post("/memories/search", json={"query": query, **fields}))
    return [(each["memory"]["id"], len(each["path"])) for each in answer["related"]]


@pytest.fixture
def drinks(http: Client) -> Client:
    """What Ada and Bob drink, and something that has nothing to do with it."""
    remember(http, "Ada drinks tea in the morning.", id="tea", user_id="ada", tags=["hot"])
    remember(http, "Bob drinks a cold lemonade.", id="lemonade", user_id="bob", tags=["cold"])
    remember(http, "The printer on floor 3 is out of toner.", id="printer", user_id="ada")
    return http


def test_what_is_nearest_in_meaning_comes_first(drinks: Client) -> None:
    found = results(drinks, "Which warm drink does Ada have at breakfast?", mode="vector")
    assert found[0]["memory"]["id"] == "tea"
    similarities = [result["similarity"] for result in found]
    assert similarities == sorted(similarities, reverse=True)
    assert all(-1 <= similarity <= 1 for similarity in similarities)
    assert results(drinks, "Ada drinks tea in the morning.")[0]["similarity"] > 0.95


def test_a_result_has_the_whole_memory(drinks: Client) -> None:
    (result,) = results(drinks, "tea", mode="text")
    assert result["memory"] == answered(drinks.get("/memories/tea"))
    assert result.keys() == {"memory", "similarity"}


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_as_many_are_found_as_are_asked_for_and_are_there(drinks: Client, mode: str) -> None:
    for limit in (1, 2, 3, 10):
        assert len(search(drinks, "beverages", limit=limit, mode=mode)) == min(limit, 3)


def test_words_find_what_has_any_of_them(drinks: Client) -> None:
    assert set(search(drinks, "lemonade or toner", mode="text")) == {"lemonade", "printer"}
    assert search(drinks, "zeppelin", mode="text") == []


def test_a_word_is_found_in_its_other_forms(drinks: Client) -> None:
    assert search(drinks, "PRINTERS", mode="text") == ["printer"]


def test_what_only_has_the_word_of_the_query_comes_in(http: Client) -> None:
    inventory = "Inventory of floor 3: chairs, lamps, cables, a box labelled beverages, a printer."
    remember(http, inventory, id="inventory")
    for number in range(60):
        remember(http, f"Ada drinks tea, milk, juice and lemonade, day {number}.")
    assert "inventory" not in search(http, "beverages", mode="vector", limit=50)
    assert "inventory" in search(http, "beverages")


def test_what_is_near_in_meaning_comes_in_without_a_word_of_the_query(drinks: Client) -> None:
    assert "tea" in search(drinks, "beverages", limit=2)
    assert search(drinks, "beverages", mode="text") == []


def test_an_explanation_has_the_rank_in_each_arm(drinks: Client) -> None:
    explained = {
        result["memory"]["id"]: result["explanation"]
        for result in results(drinks, "What tea is drunk in the morning?", explain=True)
    }
    tea = explained["tea"]
    assert (tea["rank_by_meaning"], tea["rank_by_words"]) == (1, 1)
    assert set(tea["words"]) == {"tea", "morn"}
    assert tea["reason"] == "near in meaning: rank 1; has words of the query: rank 1"
    printer = explained["printer"]
    assert (printer["rank_by_words"], printer["words"]) == (None, [])
    assert printer["reason"] == f"near in meaning: rank {printer['rank_by_meaning']}"


def test_an_arm_that_is_not_asked_has_no_rank(drinks: Client) -> None:
    (by_words,) = results(drinks, "toner", mode="text", explain=True)
    assert by_words["explanation"]["rank_by_meaning"] is None
    assert by_words["similarity"] > 0
    by_meaning = results(drinks, "toner", mode="vector", explain=True)[0]
    assert by_meaning["explanation"]["rank_by_words"] is None


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_found_that_is_further_away_than_allowed(drinks: Client, mode: str) -> None:
    query = "Ada drinks tea at noon."
    nearest = results(drinks, query, mode=mode)[0]["similarity"]
    assert search(drinks, query, mode=mode, min_similarity=nearest) == ["tea"]
    assert search(drinks, query, mode=mode, min_similarity=nearest + 1e-5) == []


@pytest.mark.parametrize("mode", MODES)
def test_the_filter_holds_for_every_result(drinks: Client, mode: str) -> None:
    query = "tea, lemonade or toner"
    assert set(search(drinks, query, mode=mode, filter={"user_id": "ada"})) == {"tea", "printer"}
    assert search(drinks, query, mode=mode, filter={"tags": {"any": ["cold"]}}) == ["lemonade"]
    assert search(drinks, query, mode=mode, filter={"user_id": "eve"}) == []


@pytest.mark.parametrize("mode", MODES)
def test_as_many_are_found_as_are_asked_for_under_any_filter(http: Client, mode: str) -> None:
    memories = [
        {
            "content": f"Ada drinks tea number {number}.",
            "tags": ["rare"] if number % 60 == 0 else [],
        }
        for number in range(600)
    ]
    answered(http.post("/memories/batch", json={"memories": memories}))
    for limit in (1, 7, 10):
        ids = search(http, "tea", mode=mode, limit=limit, filter={"tags": "rare"})
        assert len(set(ids)) == limit
    assert len(search(http, "tea", mode=mode, limit=20, filter={"tags": "rare"})) == 10
    assert len(search(http, "tea", mode=mode, limit=300)) == 300


@pytest.mark.parametrize("mode", MODES)
def test_a_search_as_of_a_time_finds_what_was_valid_then(http: Client, mode: str) -> None:
    old = remember(http, "Ada drinks tea.", valid_from="2026-01-01T00:00:00Z")
    new = supersede(http, old["id"], "Ada drinks no tea.", valid_from="2026-02-01T00:00:00Z")
    assert search(http, "tea", mode=mode) == [new["id"]]
    assert search(http, "tea", mode=mode, as_of="2026-01-31T23:59:59.999999Z") == [old["id"]]
    assert search(http, "tea", mode=mode, as_of="2026-02-01T01:00:00+01:00") == [new["id"]]
    assert search(http, "tea", mode=mode, as_of="2025-12-31T00:00:00Z") == []


def test_hops_bring_what_relations_lead_to(drinks: Client) -> None:
    relate(drinks, "tea", "printer", "CAUSES")
    relate(drinks, "lemonade", "printer")
    assert related(drinks, "tea", mode="text", hops=1) == [("printer", 1)]
    assert related(drinks, "tea", mode="text", hops=2) == [("printer", 1), ("lemonade", 2)]
    of_type = {"hops": 3, "relation_types": ["CAUSES"]}
    assert related(drinks, "tea", mode="text", **of_type) == [("printer", 1)]


def test_a_result_is_not_brought_a_second_time_by_hops(drinks: Client) -> None:
    relate(drinks, "tea", "lemonade")
    assert related(drinks, "tea or lemonade", mode="text", hops=2) == []


def test_the_filter_holds_for_what_hops_bring_and_on_the_way(drinks: Client) -> None:
    remember(drinks, "Ada has a kettle.", id="kettle", user_id="ada")
    relate(drinks, "tea", "lemonade")
    relate(drinks, "lemonade", "kettle")
    relate(drinks, "tea", "printer")
    of_ada = {"mode": "text", "hops": 3, "filter": {"user_id": "ada"}}
    assert related(drinks, "tea", **of_ada) == [("printer", 1)]


def test_hops_bring_only_what_is_valid_at_the_time(drinks: Client) -> None:
    relate(drinks, "tea", "printer")
    before = answered(drinks.get("/memories/printer"))["valid_from"]
    supersede(drinks, "printer", "The copier has new toner.", id="copier")
    assert related(drinks, "tea", mode="text", hops=1) == []
    then = {"mode": "text", "hops": 1, "as_of": before}
    assert related(drinks, "tea", **then) == [("printer", 1)]


def test_without_hops_there_is_nothing_related(drinks: Client) -> None:
    answer = answered(drinks.post("/memories/search", json={"query": "tea"}))
    assert answer.keys() == {"results"}


def test_a_query_of_no_words_finds_by_meaning_only(drinks: Client) -> None:
    assert search(drinks, "?!", mode="text") == []
    assert len(search(drinks, "?!")) == 3


def test_a_query_that_is_longer_than_the_model_reads_is_searched_by_its_beginning(
    drinks: Client,
) -> None:
    assert search(drinks, "Ada drinks tea in the morning. " * 200, limit=1) == ["tea"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"query": ""}, "`$.query`"),
        ({"query": 7}, "`$.query`"),
        ({"limit": 0}, "`$.limit`"),
        ({"limit": 1_001}, "`$.limit`"),
        ({"mode": "magic"}, "`$.mode`"),
        ({"hops": 4}, "`$.hops`"),
        ({"min_similarity": 2}, "`$.min_similarity`"),
        ({"as_of": "then"}, "`$.as_of`"),
        ({"relation_types": ["likes"]}, "`$.relation_types[0]`"),
        ({"top_k": 5}, "unknown field `top_k`"),
        ({"filter": []}, "`$.filter`"),
    ],
)
def test_a_field_of_a_search_that_is_not_valid_is_named(
    http: Client, fields: dict[str, Any], says: str
) -> None:
    response = http.post("/memories/search", json={"query": "tea"} | fields)
    assert says in refused(response, 422, "invalid_input")


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"nonsense": 1}, "filter.nonsense: there is no such field"),
        ({"any": [{"tags": "a"}, {"importance": "high"}]}, "filter.any[1].importance: expected a"),
        ({"not": {"created_at": {"gt": "then"}}}, "filter.not.created_at.gt: expected a time"),
        ({"title": {"gt": "a"}}, "filter.title.gt: text has no order"),
    ],
)
def test_a_filter_that_is_not_valid_is_refused_with_its_place(
    http: Client, given: Any, place: str
) -> None:
    for path in ("/memories/search", "/recall"):
        response = http.post(path, json={"query": "tea", "filter": given})
        assert refused(response, 422, "invalid_filter").startswith(place)
    response = http.post("/memories/delete", json={"filter": given})
    assert refused(response, 422, "invalid_filter").startswith(place)
