"""Updates, deletions, purges and relations."""

import asyncio
from typing import Any

import msgspec
import pytest

from service.errors import Conflict, InvalidInput
from service.memory.filters import EVERYTHING, parse_filter
from service.memory.model import Deleted, Memory, NewRelation, Receipt
from service.memory.store import MemoryStore
from tests.memory.memories import (
    NOW,
    UNFIT,
    at,
    draft,
    embedding,
    everything,
    ids_by_words,
    memory,
    one,
    outcomes,
    relation,
    remember,
    selected,
    whole_draft,
)

pytestmark = pytest.mark.anyio


async def links(store: MemoryStore, tenant: str, *ids: str) -> list[tuple[str, str, str]]:
    """The relations of these memories."""
    found = await store.relations(selected(tenant), ids, relation_types=None)
    return [(link.source, link.relation_type, link.target) for link in found]


async def remembered(store: MemoryStore, tenant: str, *ids: str, **fields: Any) -> None:
    """Memories of these ids with different contents."""
    drafts = [draft(f"content of {id}", id=id, **fields) for id in ids]
    assert set(await outcomes(store, tenant, *drafts)) == {"created"}


async def test_an_update_changes_the_fields_but_those_of_scope_and_history(
    store: MemoryStore, tenant: str
) -> None:
    await remembered(store, tenant, "x", "z")
    given = whole_draft(id="a", supersedes="x")
    await remember(store, tenant, given, draft("next", supersedes="a", id="b", valid_from=at(3)))
    before = await one(store, tenant, "a")
    new: dict[str, Any] = {
        "content": "milk",
        "title": None,
        "memory_type": "note",
        "tags": ("c",),
        "metadata": {"cups": None},
        "importance": 0.25,
        "context": "home",
        "updated_at": at(8),
        "expires_at": None,
    }
    other: dict[str, Any] = {
        "user_id": "bob",
        "agent_id": None,
        "session_id": "s2",
        "created_at": at(9),
        "valid_from": at(9),
        "valid_to": at(10),
        "supersedes": "z",
        "superseded_by": None,
        "version": 7,
    }
    changed = msgspec.structs.replace(before, **(new | other))
    expected = msgspec.structs.replace(before, **new, version=2)
    assert await store.update(tenant, changed, embedding(0, 1), expected_version=1) == expected
    assert await one(store, tenant, "a") == expected
    assert [tag.name for tag in await store.tags(selected(tenant))] == ["c"]
    assert [context.name for context in await store.contexts(selected(tenant))] == ["home"]


async def test_an_update_is_found_by_its_new_words(store: MemoryStore, tenant: str) -> None:
    given = draft("tea", id="a")
    await remember(store, tenant, given)
    changed = msgspec.structs.replace(given.memory, content="milk")
    await store.update(tenant, changed, None, expected_version=1)
    assert await ids_by_words(store, selected(tenant), ["milk"], limit=5) == ["a"]
    assert await ids_by_words(store, selected(tenant), ["tea"], limit=5) == []


@pytest.mark.parametrize("exchanged", [True, False])
async def test_without_an_embedding_the_old_one_stays(
    store: MemoryStore, tenant: str, exchanged: bool
) -> None:
    old, new = embedding(1), embedding(0, 1)
    given = draft("tea", id="a", direction=old)
    await remember(store, tenant, given)
    await store.update(tenant, given.memory, new if exchanged else None, expected_version=1)
    expected = new if exchanged else old
    assert (await store.embeddings(tenant, ["a"])).tolist() == [expected.tolist()]
    (match,) = await store.search_embedding(selected(tenant), expected, limit=1)
    assert match.similarity == pytest.approx(1, abs=1e-5)


async def test_an_update_of_another_version_is_a_conflict(store: MemoryStore, tenant: str) -> None:
    given = draft("tea", id="a")
    await remember(store, tenant, given)
    changed = msgspec.structs.replace(given.memory, content="milk", tags=("new",))
    for version in (0, 2):
        with pytest.raises(Conflict):
            await store.update(tenant, changed, embedding(0, 1), expected_version=version)
    assert await one(store, tenant, "a") == given.memory
    assert await store.tags(selected(tenant)) == []


async def test_an_update_of_what_is_not_there_is_none(store: MemoryStore, tenant: str) -> None:
    assert await store.update(tenant, memory(id="a"), embedding(), expected_version=1) is None
    assert await store.count(selected(tenant)) == 0


async def test_of_many_updates_at_once_one_has_the_version(store: MemoryStore, tenant: str) -> None:
    given = draft("tea", id="a")
    await remember(store, tenant, given)

    async def update(number: int) -> bool:
        changed = msgspec.structs.replace(given.memory, content=f"tea {number}")
        try:
            await store.update(tenant, changed, None, expected_version=1)
        except Conflict:
            return False
        return True

    succeeded = await asyncio.gather(*map(update, range(8)))
    assert sum(succeeded) == 1
    assert (await one(store, tenant, "a")).content == f"tea {succeeded.index(True)}"


@pytest.mark.parametrize("unfit", UNFIT)
async def test_an_update_with_an_unfit_embedding_changes_nothing(
    store: MemoryStore, tenant: str, unfit: str
) -> None:
    given = draft("tea", id="a")
    await remember(store, tenant, given)
    changed = msgspec.structs.replace(given.memory, content="milk")
    with pytest.raises(InvalidInput):
        await store.update(tenant, changed, UNFIT[unfit], expected_version=1)
    assert await one(store, tenant, "a") == given.memory


async def test_what_passes_the_filter_is_deleted_whenever_it_is_valid(
    store: MemoryStore, tenant: str
) -> None:
    await remembered(store, tenant, "a", "kept", memory_type="note")
    await remember(
        store,
        tenant,
        draft("later", id="b", valid_from=at(60), memory_type="fact"),
        draft("old", id="c", memory_type="fact"),
        draft("new", id="d", supersedes="c", memory_type="fact"),
    )
    filter_ = parse_filter({"any": [{"memory_type": "fact"}, {"id": "a"}]})
    assert await store.delete(tenant, filter_, now=NOW) == Deleted(memories=4, relations=0)
    assert [found and found.id for found in await store.get(selected(tenant), ["a", "kept"])] == [
        None,
        "kept",
    ]
    assert await store.count(selected(tenant)) == 1


async def test_what_is_deleted_is_found_no_more(store: MemoryStore, tenant: str) -> None:
    await remembered(store, tenant, "a", "b", tags=("t",), context="c")
    await store.delete(tenant, parse_filter({"id": "a"}), now=NOW)
    selection = selected(tenant)
    assert [
        match.id for match in await store.search_embedding(selection, embedding(), limit=5)
    ] == ["b"]
    assert await ids_by_words(store, selection, ["content"], limit=5) == ["b"]
    assert [(tag.name, tag.memories) for tag in await store.tags(selection)] == [("t", 1)]
    assert await outcomes(store, tenant, draft("content of a", id="a")) == ["created"]


async def test_tags_and_contexts_go_with_the_last_memory_that_has_them(
    store: MemoryStore, tenant: str
) -> None:
    await remembered(store, tenant, "a", tags=("t", "only"), context="c")
    await remembered(store, tenant, "b", tags=("t",), context="d")
    await store.delete(tenant, parse_filter({"id": "a"}), now=NOW)
    assert [tag.name for tag in await store.tags(selected(tenant))] == ["t"]
    assert [context.name for context in await store.contexts(selected(tenant))] == ["d"]
    stats = await store.stats(tenant, now=NOW)
    assert (stats.tags, stats.contexts) == (1, 1)


async def test_relations_go_with_either_memory_and_count_once(
    store: MemoryStore, tenant: str
) -> None:
    await remembered(store, tenant, "a", "b", "c", "d")
    await store.relate(
        tenant,
        [
            relation("a", "b"),
            relation("b", "a"),
            relation("a", "b", "CAUSES"),
            relation("a", "a"),
            relation("c", "a"),
            relation("b", "d", "their own"),
            relation("c", "d"),
        ],
    )
    filter_ = parse_filter({"id": {"in": ["a", "b"]}})
    assert await store.delete(tenant, filter_, now=NOW) == Deleted(memories=2, relations=6)
    assert await links(store, tenant, "a", "b", "c", "d") == [("c", "RELATED_TO", "d")]


async def test_supersession_does_not_count_as_a_relation(store: MemoryStore, tenant: str) -> None:
    await remember(store, tenant, draft("one", id="a"), draft("two", id="b", supersedes="a"))
    assert await store.delete(tenant, EVERYTHING, now=NOW) == Deleted(memories=2, relations=0)


async def test_what_is_forgotten_is_deleted_too_and_does_not_count(
    store: MemoryStore, tenant: str
) -> None:
    await remembered(store, tenant, "a")
    await remembered(store, tenant, "b", expires_at=at(5), tags=("t",))
    assert (await store.delete(tenant, EVERYTHING, now=at(5))).memories == 1
    assert await store.count(selected(tenant, now=NOW)) == 0
    assert await store.tags(selected(tenant, now=NOW)) == []


async def test_a_dry_run_counts_only(store: MemoryStore, tenant: str) -> None:
    await remembered(store, tenant, "a", "b", "c", tags=("t",))
    await store.relate(tenant, [relation("a", "b"), relation("b", "c")])
    before = await everything(store, tenant)
    filter_ = parse_filter({"id": {"in": ["a", "b"]}})
    expected = Deleted(memories=2, relations=2)
    assert await store.delete(tenant, filter_, now=NOW, dry_run=True) == expected
    assert await everything(store, tenant) == before
    assert await store.delete(tenant, filter_, now=NOW) == expected


async def test_nothing_that_passes_is_nothing_deleted(store: MemoryStore, tenant: str) -> None:
    await remembered(store, tenant, "a")
    filter_ = parse_filter({"user_id": "nobody"})
    assert await store.delete(tenant, filter_, now=NOW) == Deleted(memories=0, relations=0)
    assert await store.count(selected(tenant)) == 1


async def test_more_is_deleted_than_one_call_writes(store: MemoryStore, tenant: str) -> None:
    for batch in range(3):
        await remember(store, tenant, *(draft(f"{batch} {number}") for number in range(700)))
    assert (await store.delete(tenant, EVERYTHING, now=NOW)).memories == 2_100
    assert await store.count(selected(tenant)) == 0


async def test_a_purge_deletes_what_is_forgotten_and_nothing_else(
    store: MemoryStore, tenant: str
) -> None:
    await store.purge(now=at(100), receipts_before=NOW)
    await remembered(store, tenant, "a", "b", expires_at=at(5), tags=("t",), context="c")
    await remembered(store, tenant, "c", expires_at=at(5.001))
    await remembered(store, f"{tenant} too", "a", expires_at=at(4))
    await store.relate(tenant, [relation("a", "c")])
    assert await store.purge(now=at(5), receipts_before=NOW) == 3
    assert await store.purge(now=at(5), receipts_before=NOW) == 0
    assert await store.get(selected(tenant), ["a", "b"]) == [None, None]
    assert await store.count(selected(f"{tenant} too")) == 0
    assert await store.tags(selected(tenant)) == []
    assert await store.contexts(selected(tenant)) == []
    assert await links(store, tenant, "c") == []
    assert await store.count(selected(tenant, now=at(5))) == 1


async def test_a_purge_deletes_old_receipts(store: MemoryStore, tenant: str) -> None:
    for key, minute in (("old", 0), ("new", 10)):
        receipt = Receipt(key=key, fingerprint="request", results=())
        await store.remember(tenant, [draft(key)], now=at(minute), receipt=receipt)
    await store.purge(now=at(10), receipts_before=at(5))
    assert await store.receipt(tenant, "old") is None
    assert await store.receipt(tenant, "new") is not None
    assert await store.count(selected(tenant)) == 2


async def test_a_relation_is_kept_as_it_is(store: MemoryStore, tenant: str) -> None:
    await remembered(store, tenant, "a", "b")
    given = [
        relation("a", "b", "CAUSES", weight=0.125, created_at=at(1)),
        relation("a", "b", 'a `type` of "their" own; DROP', weight=-2.5, created_at=at(2)),
        relation("b", "b", "RELATED_TO", weight=1e9),
    ]
    assert await store.relate(tenant, given) == []
    found = await store.relations(selected(tenant), ["a", "b"], relation_types=None)
    assert found == sorted(given, key=lambda link: (link.source, link.relation_type, link.target))


async def test_a_relation_that_is_there_gets_the_weight(store: MemoryStore, tenant: str) -> None:
    await remembered(store, tenant, "a", "b")
    for minute, weight in ((1, 0.25), (2, 0.5)):
        given = [relation("a", "b", "CAUSES", weight=weight, created_at=at(minute))]
        await store.relate(tenant, given)
    (found,) = await store.relations(selected(tenant), ["a"], relation_types=None)
    assert (found.weight, found.created_at) == (0.5, at(1))


async def test_source_type_and_target_are_a_relation_s_identity(
    store: MemoryStore, tenant: str
) -> None:
    await remembered(store, tenant, "a", "b")
    given = [relation("a", "b"), relation("b", "a"), relation("a", "b", "CAUSES")]
    await store.relate(tenant, given)
    await store.relate(tenant, given)
    assert len(await links(store, tenant, "a")) == 3


async def test_relations_to_what_is_not_there_are_named_and_nothing_is_written(
    store: MemoryStore, tenant: str
) -> None:
    await remembered(store, tenant, "a", "b")
    missing = await store.relate(
        tenant, [relation("a", "b"), relation("a", "x"), relation("y", "b"), relation("x", "y")]
    )
    assert sorted(missing) == ["x", "y"]
    assert await links(store, tenant, "a", "b", "x", "y") == []


async def test_relations_are_deleted_by_source_target_and_type(
    store: MemoryStore, tenant: str
) -> None:
    await remembered(store, tenant, "a", "b", "c")
    given = [
        relation("a", "b", "CAUSES"),
        relation("a", "b", "SUPPORTS"),
        relation("a", "b", "their own"),
        relation("b", "a", "CAUSES"),
        relation("a", "c", "CAUSES"),
    ]
    await store.relate(tenant, given)
    assert await store.unrelate(tenant, "a", "b", "CONTRADICTS") == 0
    assert await store.unrelate(tenant, "a", "b", "CAUSES") == 1
    assert await store.unrelate(tenant, "a", "b", None) == 2
    assert await store.unrelate(tenant, "a", "none", None) == 0
    assert await links(store, tenant, "a") == [("a", "CAUSES", "c"), ("b", "CAUSES", "a")]


async def test_supersession_outlives_the_deletion_of_relations(
    store: MemoryStore, tenant: str
) -> None:
    link = NewRelation(target="a", relation_type="CAUSES")
    await remember(
        store, tenant, draft("one", id="a"), draft("two", supersedes="a", id="b", relations=[link])
    )
    assert await store.unrelate(tenant, "b", "a", None) == 1
    history: list[Memory] = await store.history(selected(tenant), "a")
    assert [(found.id, found.superseded_by) for found in history] == [("a", "b"), ("b", None)]
