from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.api.requests import Client, answered, refused, remember, supersede

DRINKS = "What does Ada drink in the morning?"
TEA = "Ada drinks green tea in the morning."


@pytest.fixture(scope="session")
def tokenizer(starter_bundle: Any) -> Tokenizer:
    """The model's own, read from its file."""
    tokenizer = Tokenizer.from_file(str(starter_bundle / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def recall(http: Client, query: str, **fields: Any) -> Any:
    return answered(http.post("/recall", json={"query": query, **fields}))


def test_what_is_relevant_comes_as_one_text_with_citations(http: Client) -> None:
    memory = remember(http, TEA, valid_from="2026-03-07T23:00:00Z")
    remember(http, "The printer on floor 3 is out of toner.")
    answer = recall(http, DRINKS)
    assert answer["context"] == f"- (2026-03-07) {TEA}"
    (citation,) = answer["citations"]
    assert (citation["id"], citation["snippet"]) == (memory["id"], TEA)
    assert 0.3 < citation["similarity"] <= 1


def test_a_title_stands_before_the_content(http: Client) -> None:
    remember(http, TEA, title="Drinks", valid_from="2026-03-07T00:00:00Z")
    assert recall(http, DRINKS)["context"] == f"- (2026-03-07) Drinks: {TEA}"


def test_nothing_comes_where_nothing_is_relevant(http: Client) -> None:
    remember(http, TEA)
    nothing = {"context": "", "citations": [], "tokens": 0}
    assert recall(http, "How do I get a visa for Vietnam?") == nothing
    assert recall(http, DRINKS, filter={"user_id": "bob"}) == nothing


def test_what_is_relevant_can_be_set(http: Client) -> None:
    remember(http, TEA)
    query = "How do I get a visa for Vietnam?"
    assert recall(http, query, min_similarity=-1)["citations"]
    assert not recall(http, DRINKS, min_similarity=0.999)["citations"]


@pytest.mark.parametrize("max_tokens", [1, 7, 8, 9, 20, 33, 64, 100, 150, 400])
def test_the_context_is_never_longer_than_its_budget(
    http: Client, tokenizer: Tokenizer, max_tokens: int
) -> None:
    for drink in ("tea", "coffee", "oat milk", "crème fraîche", "žluťoučký čaj", "茶", "☕☕☕"):
        remember(http, f"In the morning Ada drinks {drink}, and more of it on Sundays.")
    answer = recall(http, DRINKS, max_tokens=max_tokens)
    counted = len(tokenizer.encode(answer["context"]).ids) if answer["context"] else 0
    assert counted == answer["tokens"] <= max_tokens
    assert len(answer["citations"]) == answer["context"].count("- (")
    assert bool(answer["context"]) == (max_tokens > 2)


def test_what_says_the_same_is_there_once(http: Client) -> None:
    for content in (TEA, "In the morning, Ada drinks green tea.", "Ada drinks GREEN tea mornings"):
        remember(http, content)
    assert len(recall(http, DRINKS)["citations"]) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Train 7 to Bergen leaves at 9:15.", "Train 7 to Bergen leaves at 9:45."),
        ("The alarm code of the office is 4711.", "The alarm code of the office is 4712."),
        ("Ada does eat peanuts.", "Ada does not eat peanuts."),
    ],
)
def test_facts_that_differ_in_a_number_or_a_negation_are_both_there(
    http: Client, one: str, other: str
) -> None:
    remember(http, one)
    remember(http, other)
    context = recall(http, one)["context"]
    assert one in context
    assert other in context


def test_the_best_memory_is_cut_where_it_is_too_long_by_itself(
    http: Client, tokenizer: Tokenizer
) -> None:
    memory = remember(http, TEA + " And then she reads the news for a long while." * 10)
    answer = recall(http, DRINKS, max_tokens=30, min_similarity=0)
    assert answer["context"].endswith("…")
    assert "Ada drinks green tea" in answer["context"]
    assert [citation["id"] for citation in answer["citations"]] == [memory["id"]]
    assert 20 < len(tokenizer.encode(answer["context"]).ids) == answer["tokens"] <= 30


def test_a_memory_that_does_not_fit_makes_room_for_the_next_one(http: Client) -> None:
    remember(http, TEA, id="tea")
    long = f"{DRINKS} Ada drinks something in the morning, as she always did. " * 6
    remember(http, long, id="long")
    remember(http, "Ada drinks milk on Sundays.", id="milk")
    answer = recall(http, DRINKS, max_tokens=50, min_similarity=0)
    assert {citation["id"] for citation in answer["citations"]} == {"tea", "milk"}


def test_a_snippet_is_the_beginning_of_the_content(http: Client) -> None:
    content = TEA + " Then she reads the news." * 20
    remember(http, content)
    (citation,) = recall(http, DRINKS, min_similarity=0)["citations"]
    assert citation["snippet"] == content[:199] + "…"


def test_recall_as_of_a_time_is_of_what_was_valid_then(http: Client) -> None:
    old = remember(http, TEA, valid_from="2026-01-01T00:00:00Z")
    new = supersede(
        http, old["id"], "Ada drinks coffee in the morning.", valid_from="2026-02-01T00:00:00Z"
    )
    for as_of, memory in (("2026-01-15T00:00:00Z", old), (None, new)):
        citations = recall(http, DRINKS, as_of=as_of)["citations"]
        assert [citation["id"] for citation in citations] == [memory["id"]]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"query": ""}, "`$.query`"),
        ({"max_tokens": 0}, "`$.max_tokens`"),
        ({"max_tokens": 200_000}, "`$.max_tokens`"),
        ({"min_similarity": -2}, "`$.min_similarity`"),
        ({"limit": 3}, "unknown field `limit`"),
    ],
)
def test_a_field_of_a_recall_that_is_not_valid_is_named(
    http: Client, fields: dict[str, Any], says: str
) -> None:
    response = http.post("/recall", json={"query": "tea"} | fields)
    assert says in refused(response, 422, "invalid_input")
