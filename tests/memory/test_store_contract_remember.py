"""What becomes of drafts that a store is given to remember."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from service.memory.model import Draft, NewRelation
from service.memory.store import MAX_DRAFTS, MemoryStore
from tests.memory.memories import (
    NOW,
    at,
    draft,
    embedding,
    everything,
    ids_by_words,
    one,
    outcomes,
    remember,
    selected,
    whole_draft,
)

pytestmark = pytest.mark.anyio


async def test_a_new_memory_is_created_and_kept_as_it_is(store: MemoryStore, tenant: str) -> None:
    given = whole_draft()
    (result,) = await remember(store, tenant, given)
    assert result.outcome == "created"
    assert result.memory == given.memory
    assert result.missing == ()
    assert await one(store, tenant, given.memory.id) == given.memory


async def test_times_are_kept_to_the_microsecond(store: MemoryStore, tenant: str) -> None:
    given = draft("tea", created_at=NOW.replace(microsecond=123_457), expires_at=at(1.00001))
    await remember(store, tenant, given)
    assert await one(store, tenant, given.memory.id) == given.memory


async def test_results_come_in_the_order_of_the_drafts(store: MemoryStore, tenant: str) -> None:
    await remember(store, tenant, draft("tea", id="a"), draft("milk", id="b"))
    assert await outcomes(
        store, tenant, draft("other", id="a"), draft("new"), draft("milk", id="b"), draft("tea")
    ) == ["conflict", "created", "unchanged", "duplicate"]


async def test_no_drafts_are_no_results(store: MemoryStore, tenant: str) -> None:
    assert await remember(store, tenant) == []


async def test_as_many_drafts_as_one_call_takes_are_written(
    store: MemoryStore, tenant: str
) -> None:
    drafts = [draft(f"tea {number}") for number in range(MAX_DRAFTS)]
    assert set(await outcomes(store, tenant, *drafts)) == {"created"}
    assert await store.count(selected(tenant)) == MAX_DRAFTS


async def test_the_same_content_under_its_own_id_is_unchanged(
    store: MemoryStore, tenant: str
) -> None:
    await remember(store, tenant, whole_draft(id="a"))
    before = await everything(store, tenant)
    (result,) = await remember(
        store,
        tenant,
        whole_draft(id="a", tags=("c",), importance=0.1, metadata={}, created_at=at(9)),
    )
    assert (result.outcome, result.memory) == ("unchanged", whole_draft(id="a").memory)
    assert await everything(store, tenant) == before


async def test_other_content_under_its_own_id_is_a_conflict(
    store: MemoryStore, tenant: str
) -> None:
    await remember(store, tenant, draft("tea", id="a"))
    before = await everything(store, tenant)
    (result,) = await remember(store, tenant, draft("milk", id="a", tags=("new",), context="new"))
    assert (result.outcome, result.memory) == ("conflict", draft("tea", id="a").memory)
    assert await everything(store, tenant) == before


@pytest.mark.parametrize("content", ["milk", "tea"])
async def test_replacing_takes_every_field_but_those_of_its_history(
    store: MemoryStore, tenant: str, content: str
) -> None:
    await remember(store, tenant, draft("tea", id="a", tags=("old",), context="old"))
    given = whole_draft(id="a", replace=True, created_at=at(5))
    given = msgspec.structs.replace(
        given, memory=msgspec.structs.replace(given.memory, content=content)
    )
    (result,) = await remember(store, tenant, given)
    kept = msgspec.structs.replace(given.memory, created_at=NOW, version=2)
    assert (result.outcome, result.memory) == ("replaced", kept)
    assert await one(store, tenant, "a") == kept
    assert [tag.name for tag in await store.tags(selected(tenant))] == ["a", "b"]
    assert [found.name for found in await store.contexts(selected(tenant))] == ["home/kitchen"]


async def test_replacing_raises_the_version_each_time(store: MemoryStore, tenant: str) -> None:
    for version in (1, 2, 3):
        await remember(store, tenant, draft(f"tea {version}", id="a", replace=True))
        assert (await one(store, tenant, "a")).version == version


async def test_what_is_replaced_is_found_by_its_new_words_and_embedding_alone(
    store: MemoryStore, tenant: str
) -> None:
    await remember(store, tenant, draft("tea", id="a", direction=embedding(1)))
    await remember(store, tenant, draft("milk", id="a", direction=embedding(0, 1), replace=True))
    selection = selected(tenant)
    assert await ids_by_words(store, selection, ["tea"], limit=5) == []
    assert await ids_by_words(store, selection, ["milk"], limit=5) == ["a"]
    (match,) = await store.search_embedding(selection, embedding(0, 1), limit=5)
    assert match.similarity == pytest.approx(1, abs=1e-5)


async def test_replacing_keeps_supersession_and_relations(store: MemoryStore, tenant: str) -> None:
    await remember(
        store,
        tenant,
        draft("one", id="a"),
        draft("two", id="b", supersedes="a", valid_from=at(1)),
        draft("three", id="c", supersedes="b", valid_from=at(2)),
        draft("other", id="x"),
    )
    link = NewRelation(target="x", relation_type="CAUSES")
    await remember(store, tenant, draft("two", id="b", relations=[link]))
    (result,) = await remember(
        store, tenant, draft("TWO", id="b", replace=True, valid_from=at(1), created_at=at(1))
    )
    assert result.memory is not None
    kept = result.memory
    assert (kept.supersedes, kept.superseded_by, kept.valid_to) == ("a", "c", at(2))
    assert [found.id for found in await store.history(selected(tenant), "b")] == ["a", "b", "c"]
    assert len(await store.relations(selected(tenant), ["b"], relation_types=["CAUSES"])) == 1


async def test_a_draft_that_replaces_what_is_not_there_is_created(
    store: MemoryStore, tenant: str
) -> None:
    assert await outcomes(store, tenant, draft("tea", id="a", replace=True)) == ["created"]
    assert (await one(store, tenant, "a")).version == 1


async def test_a_forgotten_memory_leaves_its_id_to_a_new_one(
    store: MemoryStore, tenant: str
) -> None:
    link = NewRelation(target="x", relation_type="CAUSES")
    await remember(
        store,
        tenant,
        draft("other", id="x"),
        draft("tea", id="a", expires_at=at(5), tags=("old",), relations=[link]),
    )
    (result,) = await remember(store, tenant, draft("milk", id="a", created_at=at(5)), now=at(5))
    given = draft("milk", id="a", created_at=at(5)).memory
    assert (result.outcome, result.memory) == ("created", given)
    assert await one(store, tenant, "a") == given
    assert await store.tags(selected(tenant)) == []
    assert await store.relations(selected(tenant), ["a"], relation_types=None) == []


async def test_until_it_is_forgotten_a_memory_holds_its_id(store: MemoryStore, tenant: str) -> None:
    await remember(store, tenant, draft("tea", id="a", expires_at=at(5)))
    just_before = at(5) - timedelta.resolution
    assert await outcomes(store, tenant, draft("milk", id="a"), now=just_before) == ["conflict"]


async def test_the_same_content_in_the_same_scope_is_a_duplicate(
    store: MemoryStore, tenant: str
) -> None:
    first = whole_draft()
    await remember(store, tenant, first)
    before = await everything(store, tenant)
    (result,) = await remember(
        store,
        tenant,
        whole_draft(tags=("new",), context="new", title=None, direction=embedding(0, 1)),
    )
    assert (result.outcome, result.memory) == ("duplicate", first.memory)
    assert await everything(store, tenant) == before


async def test_a_duplicate_in_the_same_call_is_of_the_earlier_draft(
    store: MemoryStore, tenant: str
) -> None:
    first = draft("tea")
    created, duplicate = await remember(store, tenant, first, draft("tea"))
    assert (created.outcome, duplicate.outcome) == ("created", "duplicate")
    assert duplicate.memory == first.memory
    assert await store.count(selected(tenant)) == 1


@pytest.mark.parametrize("field", ["user_id", "agent_id", "session_id"])
async def test_the_same_content_in_another_scope_is_another_memory(
    store: MemoryStore, tenant: str, field: str
) -> None:
    def in_scope(value: str) -> Draft:
        fields: dict[str, Any] = {field: value}
        return draft("tea", **fields)

    given = [draft("tea"), in_scope("x"), in_scope("y")]
    assert await outcomes(store, tenant, *given) == ["created"] * 3


async def test_a_duplicate_is_of_the_newest_with_its_content(
    store: MemoryStore, tenant: str
) -> None:
    await remember(
        store,
        tenant,
        draft("tea", id="a", created_at=at(1)),
        draft("tea", id="b", created_at=at(3)),
        draft("tea", id="c", created_at=at(2)),
    )
    (result,) = await remember(store, tenant, draft("tea", created_at=at(0)))
    assert result.outcome == "duplicate"
    assert result.memory is not None
    assert result.memory.id == "b"


async def test_the_client_s_own_id_is_never_a_duplicate(store: MemoryStore, tenant: str) -> None:
    await remember(store, tenant, draft("tea"))
    assert await outcomes(store, tenant, draft("tea", id="a")) == ["created"]


async def test_what_is_superseded_or_forgotten_makes_no_duplicate(
    store: MemoryStore, tenant: str
) -> None:
    await remember(
        store,
        tenant,
        draft("tea", id="a"),
        draft("milk", id="b", supersedes="a"),
        draft("water", expires_at=at(5)),
    )
    assert await outcomes(store, tenant, draft("tea"), draft("water"), now=at(5)) == [
        "created",
        "created",
    ]


async def test_after_an_update_the_new_content_makes_duplicates_and_the_old_does_not(
    store: MemoryStore, tenant: str
) -> None:
    given = draft("tea", id="a")
    await remember(store, tenant, given)
    changed = msgspec.structs.replace(given.memory, content="milk")
    await store.update(tenant, changed, embedding(0, 1), expected_version=1)
    assert await outcomes(store, tenant, draft("milk"), draft("tea")) == ["duplicate", "created"]


async def test_a_relation_leads_to_what_is_there_before_or_through_an_earlier_draft(
    store: MemoryStore, tenant: str
) -> None:
    await remember(store, tenant, draft("one", id="a"))
    links = [
        NewRelation(target="b", relation_type="CAUSES", weight=0.5),
        NewRelation(target="a", relation_type="their own"),
    ]
    await remember(store, tenant, draft("two", id="b"), draft("three", id="c", relations=links))
    found = await store.relations(selected(tenant), ["c"], relation_types=None)
    assert [(link.source, link.relation_type, link.target, link.weight) for link in found] == [
        ("c", "CAUSES", "b", 0.5),
        ("c", "their own", "a", 1.0),
    ]


async def test_a_relation_to_what_is_not_there_refuses_its_draft_alone(
    store: MemoryStore, tenant: str
) -> None:
    links = [NewRelation(target=id, relation_type="CAUSES") for id in ("c", "none", "a")]
    first, refused, last = await remember(
        store,
        tenant,
        draft("one", id="a"),
        draft("two", id="b", relations=links, tags=("new",), context="new"),
        draft("three", id="c"),
    )
    assert (first.outcome, refused.outcome, last.outcome) == (
        "created",
        "missing_target",
        "created",
    )
    assert set(refused.missing) == {"c", "none"}
    selection = selected(tenant)
    assert await store.get(selection, ["b"]) == [None]
    assert await store.relations(selection, ["a", "b", "c"], relation_types=None) == []
    assert await store.tags(selection) == []
    assert await store.contexts(selection) == []
    assert await ids_by_words(store, selection, ["two"], limit=5) == []
    assert len(await store.search_embedding(selection, embedding(), limit=5)) == 2
    assert await outcomes(store, tenant, draft("two")) == ["created"]


async def test_a_forgotten_memory_is_no_target(store: MemoryStore, tenant: str) -> None:
    await remember(store, tenant, draft("one", id="a", expires_at=at(5)))
    link = NewRelation(target="a", relation_type="CAUSES")
    assert await outcomes(store, tenant, draft("two", relations=[link]), now=at(5)) == [
        "missing_target"
    ]


async def test_an_unchanged_draft_writes_its_relations_and_a_duplicate_does_not(
    store: MemoryStore, tenant: str
) -> None:
    link = NewRelation(target="a", relation_type="CAUSES")
    await remember(store, tenant, draft("one", id="a"), draft("two", id="b"), draft("three"))
    assert await outcomes(
        store,
        tenant,
        draft("two", id="b", relations=[link]),
        draft("three", relations=[link]),
    ) == ["unchanged", "duplicate"]
    found = await store.relations(selected(tenant), ["a"], relation_types=None)
    assert [link.source for link in found] == ["b"]


async def test_a_relation_that_is_remembered_again_gets_the_weight(
    store: MemoryStore, tenant: str
) -> None:
    for minute, weight in ((1, 0.25), (2, 0.75)):
        link = NewRelation(target="a", relation_type="CAUSES", weight=weight)
        await remember(
            store, tenant, draft("a", id="a"), draft("b", id="b", relations=[link]), now=at(minute)
        )
    (found,) = await store.relations(selected(tenant), ["a"], relation_types=None)
    assert (found.weight, found.created_at) == (0.75, at(1))
