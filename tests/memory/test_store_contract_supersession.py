"""Memories that take the place of others, and what is left when some of them are deleted."""

import pytest

from service.memory.filters import parse_filter
from service.memory.store import MemoryStore
from tests.memory.memories import (
    NOW,
    at,
    draft,
    everything,
    one,
    outcomes,
    remember,
    selected,
)

pytestmark = pytest.mark.anyio


async def test_superseding_closes_the_other_memory(store: MemoryStore, tenant: str) -> None:
    await remember(store, tenant, draft("one", id="a"))
    (result,) = await remember(
        store, tenant, draft("two", id="b", supersedes="a", valid_from=at(3))
    )
    assert result.outcome == "created"
    older, newer = await one(store, tenant, "a"), await one(store, tenant, "b")
    assert result.memory == newer
    assert (older.valid_to, older.superseded_by, older.supersedes) == (at(3), "b", None)
    assert (newer.valid_to, newer.superseded_by, newer.supersedes) == (None, None, "a")


async def test_a_chain_can_be_made_in_one_call(store: MemoryStore, tenant: str) -> None:
    assert (
        await outcomes(
            store,
            tenant,
            draft("one", id="a"),
            draft("two", supersedes="a", id="b", valid_from=at(1)),
            draft("three", supersedes="b", id="c", valid_from=at(2)),
        )
        == ["created"] * 3
    )
    history = await store.history(selected(tenant), "b")
    assert [(found.id, found.valid_to) for found in history] == [
        ("a", at(1)),
        ("b", at(2)),
        ("c", None),
    ]


async def test_what_supersedes_is_never_a_duplicate(store: MemoryStore, tenant: str) -> None:
    await remember(store, tenant, draft("tea", id="a"), draft("milk", id="b"))
    assert await outcomes(store, tenant, draft("milk", supersedes="a")) == ["created"]
    assert await outcomes(store, tenant, draft("milk", supersedes="b")) == ["created"]


async def test_what_is_superseded_already_has_its_successor(
    store: MemoryStore, tenant: str
) -> None:
    await remember(store, tenant, draft("one", id="a"), draft("two", id="b", supersedes="a"))
    before = await everything(store, tenant)
    (result,) = await remember(
        store, tenant, draft("three", supersedes="a", tags=("new",), context="new")
    )
    assert result.outcome == "already_superseded"
    assert result.memory == await one(store, tenant, "b")
    assert await everything(store, tenant) == before


async def test_a_second_successor_in_the_same_call_is_refused(
    store: MemoryStore, tenant: str
) -> None:
    await remember(store, tenant, draft("one", id="a"))
    first, second = await remember(
        store, tenant, draft("two", supersedes="a"), draft("three", supersedes="a")
    )
    assert (first.outcome, second.outcome) == ("created", "already_superseded")
    assert second.memory == first.memory


@pytest.mark.parametrize("superseded", ["none", "forgotten", "later", "itself"])
async def test_what_supersedes_nothing_that_is_there_is_refused(
    store: MemoryStore, tenant: str, superseded: str
) -> None:
    await remember(store, tenant, draft("one", id="forgotten", expires_at=at(5)))
    refused, _ = await remember(
        store,
        tenant,
        draft("two", id="itself", supersedes=superseded, tags=("new",), context="new"),
        draft("three", id="later"),
        now=at(5),
    )
    assert (refused.outcome, refused.missing) == ("missing_superseded", (superseded,))
    selection = selected(tenant, now=at(5))
    assert await store.get(selection, ["itself"]) == [None]
    assert await store.tags(selection) == []
    assert await store.contexts(selection) == []


async def test_a_successor_that_is_sent_again_is_unchanged(store: MemoryStore, tenant: str) -> None:
    await remember(store, tenant, draft("one", id="a"))
    assert await outcomes(store, tenant, draft("two", id="b", supersedes="a")) == ["created"]
    assert await outcomes(store, tenant, draft("two", id="b", supersedes="a")) == ["unchanged"]


async def chain(store: MemoryStore, tenant: str, *, length: int = 5) -> list[str]:
    """The ids 0, 1, 2, ... of which each took the place of the one before at its minute."""
    ids = [str(number) for number in range(length)]
    drafts = [
        draft(
            f"content {number}",
            id=id,
            created_at=at(number),
            supersedes=ids[number - 1] if number else None,
        )
        for number, id in enumerate(ids)
    ]
    assert set(await outcomes(store, tenant, *drafts)) == {"created"}
    return ids


@pytest.mark.parametrize(
    "deleted",
    [["0"], ["2"], ["4"], ["0", "1"], ["1", "2"], ["3", "4"], ["1", "3"], ["0", "2", "4"]],
    ids="+".join,
)
async def test_a_chain_without_the_deleted_is_as_if_they_had_never_been(
    store: MemoryStore, tenant: str, deleted: list[str]
) -> None:
    ids = await chain(store, tenant)
    await store.delete(tenant, parse_filter({"id": {"in": deleted}}), now=at(9))
    left = [id for id in ids if id not in deleted]
    expected = [
        (id, before, after, at(int(after)) if after else None)
        for before, id, after in zip([None, *left], left, [*left[1:], None], strict=False)
    ]
    for id in left:
        history = await store.history(selected(tenant), id)
        assert [
            (found.id, found.supersedes, found.superseded_by, found.valid_to) for found in history
        ] == expected
    for minute in range(5):
        valid = await store.get(selected(tenant, as_of=at(minute)), left)
        began = [id for id in left if int(id) <= minute]
        assert [found.id for found in valid if found] == began[-1:]


async def test_a_memory_that_is_open_again_can_be_superseded_and_be_a_duplicate(
    store: MemoryStore, tenant: str
) -> None:
    await remember(store, tenant, draft("one", id="a"), draft("two", id="b", supersedes="a"))
    await store.delete(tenant, parse_filter({"id": "b"}), now=NOW)
    assert await outcomes(store, tenant, draft("one"), draft("three", supersedes="a")) == [
        "duplicate",
        "created",
    ]


async def test_purging_mends_a_chain_as_deleting_does(store: MemoryStore, tenant: str) -> None:
    await remember(
        store,
        tenant,
        draft("one", id="a"),
        draft("two", id="b", supersedes="a", valid_from=at(1), expires_at=at(5)),
        draft("three", id="c", supersedes="b", valid_from=at(2)),
        draft("lone", id="d", expires_at=at(5)),
    )
    await store.purge(now=at(5), receipts_before=at(-1))
    history = await store.history(selected(tenant), "c")
    assert [(found.id, found.superseded_by, found.valid_to) for found in history] == [
        ("a", "c", at(2)),
        ("c", None, None),
    ]


async def test_a_history_is_of_one_chain_oldest_first(store: MemoryStore, tenant: str) -> None:
    ids = await chain(store, tenant)
    await remember(store, tenant, draft("lone", id="lone"))
    for id in ids:
        assert [found.id for found in await store.history(selected(tenant), id)] == ids
    assert [found.id for found in await store.history(selected(tenant), "lone")] == ["lone"]
    assert await store.history(selected(tenant), "none") == []


async def test_a_history_has_the_selected_memories_of_the_chain(
    store: MemoryStore, tenant: str
) -> None:
    await chain(store, tenant)
    middle = selected(tenant, {"id": {"in": ["1", "3"]}})
    assert [found.id for found in await store.history(middle, "2")] == ["1", "3"]
    then = selected(tenant, as_of=at(2))
    assert [found.id for found in await store.history(then, "4")] == ["2"]


async def test_a_long_chain_is_one_history(store: MemoryStore, tenant: str) -> None:
    ids = await chain(store, tenant, length=300)
    assert [found.id for found in await store.history(selected(tenant), "150")] == ids


async def test_the_order_of_a_history_is_that_of_supersession(
    store: MemoryStore, tenant: str
) -> None:
    await remember(
        store,
        tenant,
        draft("one", id="z", created_at=at(5)),
        draft("two", id="y", created_at=at(5), supersedes="z"),
        draft("three", id="x", created_at=at(1), supersedes="y"),
    )
    assert [found.id for found in await store.history(selected(tenant), "x")] == ["z", "y", "x"]
