"""What is found by an embedding and by words, and in which order."""

import numpy as np
import pytest

from service.errors import InvalidInput
from service.memory.store import SIMILARITY_DECIMALS, WORD_CANDIDATES, MemoryStore
from service.memory.words import Candidate, indexed_words, query_words_of, rank_by_words
from tests.memory.memories import (
    CONTENTS,
    NOW,
    QUERIES,
    UNFIT,
    at,
    draft,
    embedding,
    ids_by_words,
    random_embeddings,
    remember,
    selected,
)

pytestmark = pytest.mark.anyio

# Of unit length to 32-bit floats; two of them give a cosine that is off by as little.
ROUNDING = 2e-6


async def test_similarity_is_the_cosine(store: MemoryStore, tenant: str) -> None:
    *directions, query = random_embeddings(41)
    await remember(
        store,
        tenant,
        *(draft(f"{n}", id=f"{n:02}", direction=given) for n, given in enumerate(directions)),
    )
    cosines = np.stack(directions) @ query
    matches = await store.search_embedding(selected(tenant), query, limit=40)
    assert [match.id for match in matches] == [f"{n:02}" for n in np.argsort(-cosines)]
    assert [match.similarity for match in matches] == pytest.approx(
        sorted(cosines, reverse=True), abs=ROUNDING
    )


async def test_similarity_is_from_1_to_minus_1_and_rounded(store: MemoryStore, tenant: str) -> None:
    directions = [embedding(1), embedding(-1), embedding(0, 1), embedding(1, 2), embedding(1, 1, 1)]
    await remember(
        store, tenant, *(draft(f"{n}", direction=given) for n, given in enumerate(directions))
    )
    matches = await store.search_embedding(selected(tenant), embedding(1), limit=5)
    similarities = [match.similarity for match in matches]
    assert similarities == pytest.approx([1, 3**-0.5, 5**-0.5, 0, -1], abs=ROUNDING)
    assert similarities == [round(given, SIMILARITY_DECIMALS) for given in similarities]
    assert max(map(abs, similarities)) <= 1


@pytest.mark.parametrize("limit", [1, 2, 49, 50, 51, 200, 1_000])
async def test_as_many_are_found_as_asked_for_or_selected(
    store: MemoryStore, tenant: str, limit: int
) -> None:
    directions = random_embeddings(200)
    await remember(
        store,
        tenant,
        *(
            draft(f"{n}", direction=given, user_id="ada" if n % 4 else "bob", tags=(str(n),))
            for n, given in enumerate(directions)
        ),
    )
    for document, there in (
        ({}, 200),
        ({"user_id": "bob"}, 50),
        ({"tags": {"any": ["1", "2", "3"]}}, 3),
        ({"user_id": "eve"}, 0),
    ):
        matches = await store.search_embedding(
            selected(tenant, document), -directions[0], limit=limit
        )
        assert len(matches) == len({match.id for match in matches}) == min(limit, there)


async def test_of_equals_the_newest_are_found(store: MemoryStore, tenant: str) -> None:
    minutes = [(7 * number) % 30 for number in range(30)]
    await remember(
        store,
        tenant,
        *(draft(f"{minute}", id=f"{minute:02}", created_at=at(minute)) for minute in minutes),
    )
    for limit in (1, 5, 10, 30):
        matches = await store.search_embedding(selected(tenant), embedding(1, 1), limit=limit)
        assert [match.id for match in matches] == [f"{n:02}" for n in range(29, -1, -1)][:limit]


async def test_the_newest_of_many_equals_are_found(store: MemoryStore, tenant: str) -> None:
    await remember(
        store,
        tenant,
        *(
            draft(f"{number}", id=f"{number:04}", created_at=at((389 * number) % 900))
            for number in range(900)
        ),
    )
    matches = await store.search_embedding(selected(tenant), embedding(), limit=10)
    assert [(389 * int(match.id)) % 900 for match in matches] == list(range(899, 889, -1))


async def test_of_equals_of_one_time_the_smaller_ids_are_found(
    store: MemoryStore, tenant: str
) -> None:
    ids = [f"{(7 * number) % 30:02}" for number in range(30)]
    await remember(store, tenant, *(draft(id, id=id) for id in ids))
    matches = await store.search_embedding(selected(tenant), embedding(), limit=10)
    assert [match.id for match in matches] == sorted(ids)[:10]


async def test_what_arithmetic_makes_of_equal_similarities_does_not_count(
    store: MemoryStore, tenant: str
) -> None:
    directions = [embedding(1, 2), embedding(3, 6), embedding(0.7, 1.4), embedding(1, 0, 2)]
    await remember(
        store,
        tenant,
        *(
            draft(f"{n}", id=f"{n}", direction=given, created_at=at(n))
            for n, given in enumerate(directions)
        ),
    )
    matches = await store.search_embedding(selected(tenant), embedding(1), limit=4)
    assert [match.id for match in matches] == ["3", "2", "1", "0"]


async def test_the_nearest_are_found_among_those_that_pass_the_filter(
    store: MemoryStore, tenant: str
) -> None:
    *directions, query = random_embeddings(501, seed=1)
    await remember(
        store,
        tenant,
        *(
            draft(f"{n}", id=f"{n}", direction=given, importance=(n % 100) / 100)
            for n, given in enumerate(directions)
        ),
    )
    cosines = np.stack(directions) @ query
    nearest = [str(n) for n in np.argsort(-cosines)]
    for document, passes in (
        ({"importance": {"lt": 0.01}}, lambda n: n % 100 == 0),
        ({"importance": {"gte": 0.5}}, lambda n: n % 100 >= 50),
        ({"not": {"id": nearest[0]}}, lambda n: str(n) != nearest[0]),
    ):
        matches = await store.search_embedding(selected(tenant, document), query, limit=10)
        expected = [id for id in nearest if passes(int(id))][:10]
        assert [match.id for match in matches] == expected


async def test_what_was_valid_at_a_time_is_found(store: MemoryStore, tenant: str) -> None:
    await remember(
        store,
        tenant,
        draft("tea", id="a", direction=embedding(1)),
        draft("more tea", id="b", direction=embedding(1, 1), supersedes="a", valid_from=at(5)),
        draft("tea too", id="c", direction=embedding(0, 1), expires_at=at(5)),
    )
    for minute, expected in ((1, ["a", "c"]), (5, ["b"])):
        selection = selected(tenant, as_of=at(minute))
        matches = await store.search_embedding(selection, embedding(1), limit=5)
        assert [match.id for match in matches] == expected
        assert sorted(await ids_by_words(store, selection, ["tea"], limit=5)) == expected


@pytest.mark.parametrize("unfit", UNFIT)
async def test_an_unfit_embedding_is_not_searched_for(
    store: MemoryStore, tenant: str, unfit: str
) -> None:
    await remember(store, tenant, draft("tea"))
    with pytest.raises(InvalidInput):
        await store.search_embedding(selected(tenant), UNFIT[unfit], limit=5)


async def test_embeddings_come_as_they_were_given_in_the_order_of_the_ids(
    store: MemoryStore, tenant: str
) -> None:
    given = random_embeddings(3)
    await remember(
        store, tenant, *(draft(id, id=id, direction=given[n]) for n, id in enumerate("abc"))
    )
    found = await store.embeddings(tenant, ["c", "none", "a", "c"])
    assert found.dtype == np.float32
    expected = np.stack([given[2], np.zeros_like(given[0]), given[0], given[2]])
    np.testing.assert_array_equal(found, expected)
    assert (await store.embeddings(tenant, [])).shape == (0, len(given[0]))


async def test_no_words_find_nothing(store: MemoryStore, tenant: str) -> None:
    await remember(store, tenant, draft("tea"), draft("…"))
    assert await ids_by_words(store, selected(tenant), [], limit=5) == []


async def test_any_of_the_words_finds_a_memory(store: MemoryStore, tenant: str) -> None:
    await remember(
        store,
        tenant,
        draft("tea with honey", id="a"),
        draft("milk", id="b"),
        draft("water", id="c"),
        draft("a cup", id="d", title="Milk, warm"),
    )
    words = query_words_of("teas or milk or coffee")
    found = await ids_by_words(store, selected(tenant), words, limit=5)
    assert sorted(found) == ["a", "b", "d"]
    assert len(await ids_by_words(store, selected(tenant), words, limit=2)) == 2


@pytest.mark.parametrize(
    ("query", "content"),
    [
        ("東京", "私は東京に住んでいます"),
        ("CAFÉ", "the cafe\u0301 at the corner"),
        ("E1042", "it failed with e1042"),
        ("the", "the who"),
        ("and OR not", "and or not"),
        ("жизнь", "такова жизнь"),
        ("near", "near"),
    ],
)
async def test_words_of_any_script_are_found_and_none_is_syntax(
    store: MemoryStore, tenant: str, query: str, content: str
) -> None:
    await remember(store, tenant, draft(content, id="a"), draft("something else", id="b"))
    assert await ids_by_words(store, selected(tenant), query_words_of(query), limit=5) == ["a"]


async def test_a_word_is_not_a_part_of_another(store: MemoryStore, tenant: str) -> None:
    await remember(store, tenant, draft("teapot", id="a"), draft("steam", id="b"))
    assert await ids_by_words(store, selected(tenant), ["tea"], limit=5) == []


async def test_the_words_of_other_tenants_are_not_theirs(store: MemoryStore, tenant: str) -> None:
    await remember(store, f"{tenant} too", *(draft(f"tea {number}") for number in range(300)))
    await remember(store, tenant, draft("tea", id="a"))
    assert await ids_by_words(store, selected(tenant), ["tea"], limit=5) == ["a"]
    assert await ids_by_words(store, selected(tenant), query_words_of(tenant), limit=5) == []


async def test_few_that_pass_the_filter_are_found_among_many_with_the_words(
    store: MemoryStore, tenant: str
) -> None:
    few = [f"few-{number}" for number in range(3)]
    for id in few:
        await remember(store, tenant, draft("milk or water or " * 9 + "tea " + id, id=id))
    drafts = [
        draft(f"tea tea {number}", user_id="ada", tags=("many",), metadata={"many": 1})
        for number in range(1_000)
    ]
    await remember(store, tenant, *drafts)
    for document in (
        {"user_id": None},
        {"not": {"tags": "many"}},
        {"metadata.many": None},
        {"id": {"in": few}},
    ):
        found = await ids_by_words(store, selected(tenant, document), ["tea"], limit=10)
        assert sorted(found) == few


async def test_as_many_are_found_by_words_as_asked_for(store: MemoryStore, tenant: str) -> None:
    drafts = [draft(f"tea {number}") for number in range(2 * WORD_CANDIDATES)]
    await remember(store, tenant, *drafts)
    for limit in (1, WORD_CANDIDATES, WORD_CANDIDATES + 50, 3 * WORD_CANDIDATES):
        found = await ids_by_words(store, selected(tenant), ["tea"], limit=limit)
        assert len(found) == len(set(found)) == min(limit, 2 * WORD_CANDIDATES)


@pytest.mark.parametrize("query", QUERIES)
async def test_memories_are_in_the_order_of_their_words(
    store: MemoryStore, tenant: str, query: str
) -> None:
    drafts = [
        draft(content, id=f"{n}-{minute}", title=title, created_at=at(minute))
        for n, content in enumerate(CONTENTS)
        for minute, title in ((0, None), (1, None), (2, "Tea and cats"))
    ]
    await remember(store, tenant, *drafts)
    words = query_words_of(query)
    texts = [
        (given.memory, indexed_words(given.memory.title, given.memory.content)) for given in drafts
    ]
    candidates = [
        Candidate(memory.id, memory.created_at, text)
        for memory, text in texts
        if not set(words).isdisjoint(text.split())
    ]
    expected = rank_by_words(words, candidates)
    assert await store.search_words(selected(tenant), words, limit=100) == expected
    assert await store.search_words(selected(tenant), words, limit=3) == expected[:3]


async def test_a_memory_can_be_found_as_soon_as_it_is_remembered(
    store: MemoryStore, tenant: str
) -> None:
    for number in range(20):
        direction = embedding(1, number)
        await remember(store, tenant, draft(f"w{number}", id=f"{number}", direction=direction))
        (match,) = await store.search_embedding(selected(tenant), direction, limit=1)
        assert match.id == f"{number}"
        found = await ids_by_words(store, selected(tenant), [f"w{number}"], limit=1)
        assert found == [f"{number}"]
        assert await store.count(selected(tenant, now=NOW)) == number + 1
