"""Which memories are selected, in which order, and what is counted of them."""

from datetime import timedelta
from typing import Any

import pytest

from service.memory.model import Count, Stats, to_microseconds
from service.memory.store import MemoryStore, Order, OrderField, Position, Selection
from tests.memory.memories import (
    NOW,
    at,
    draft,
    embedding,
    ids_by_words,
    one,
    relation,
    remember,
    selected,
    unique_tenant,
)

pytestmark = pytest.mark.anyio

TICK = timedelta(microseconds=1)


async def seen(store: MemoryStore, selection: Selection, *ids: str) -> list[str]:
    """Which of these memories are selected; each way of asking must give the same."""
    found = await store.get(selection, ids)
    got = [memory.id for memory in found if memory]
    page = await store.page(selection, order=Order(), after=None, limit=100)
    matches = await store.search_embedding(selection, embedding(), limit=100)
    assert sorted(memory.id for memory in page) == sorted(got)
    assert sorted(match.id for match in matches) == sorted(got)
    assert sorted(await ids_by_words(store, selection, ["content"], limit=100)) == sorted(got)
    assert await store.count(selection) == len(got)
    assert sum(tag.memories for tag in await store.tags(selection)) == len(got)
    assert sum(context.memories for context in await store.contexts(selection)) == len(got)
    return got


async def remembered(store: MemoryStore, tenant: str, id: str, **fields: Any) -> None:
    """A memory that every way of asking can find."""
    given = {"tags": ("tag",), "context": "context"} | fields
    await remember(store, tenant, draft(f"content {id}", id=id, **given))


async def pages(
    store: MemoryStore, selection: Selection, order: Order, *, limit: int = 2
) -> list[str]:
    """The ids of all pages."""
    ids: list[str] = []
    after = None
    while page := await store.page(selection, order=order, after=after, limit=limit):
        assert len(page) <= limit
        ids += [memory.id for memory in page]
        after = position(page[-1], order)
    return ids


def position(memory: Any, order: Order) -> Position:
    value = getattr(memory, order.field)
    return Position(value if order.field == "importance" else to_microseconds(value), memory.id)


async def test_a_memory_is_forgotten_from_the_moment_it_expires(
    store: MemoryStore, tenant: str
) -> None:
    await remembered(store, tenant, "a", expires_at=at(5))
    await remembered(store, tenant, "b")
    assert await seen(store, selected(tenant, now=at(5) - TICK), "a", "b") == ["a", "b"]
    assert await seen(store, selected(tenant, now=at(5)), "a", "b") == ["b"]
    assert await seen(store, selected(tenant, now=at(5) + TICK), "a", "b") == ["b"]


async def test_without_a_time_every_validity_is_selected(store: MemoryStore, tenant: str) -> None:
    await remembered(store, tenant, "a")
    await remembered(store, tenant, "b", supersedes="a", valid_from=at(1))
    await remembered(store, tenant, "future", valid_from=at(60))
    assert await seen(store, selected(tenant), "a", "b", "future") == ["a", "b", "future"]


async def test_a_memory_is_valid_from_its_beginning_up_to_and_not_at_its_end(
    store: MemoryStore, tenant: str
) -> None:
    await remembered(store, tenant, "a", valid_from=at(1))
    await remembered(store, tenant, "b", valid_from=at(5), supersedes="a")
    for time, expected in (
        (at(1) - TICK, []),
        (at(1), ["a"]),
        (at(5) - TICK, ["a"]),
        (at(5), ["b"]),
        (at(5) + TICK, ["b"]),
    ):
        assert await seen(store, selected(tenant, as_of=time), "a", "b") == expected


async def test_a_memory_was_known_until_it_expired(store: MemoryStore, tenant: str) -> None:
    await remembered(store, tenant, "a", expires_at=at(5))
    assert await seen(store, selected(tenant, as_of=at(5) - TICK), "a") == ["a"]
    assert await seen(store, selected(tenant, as_of=at(5)), "a") == []
    assert await seen(store, selected(tenant, now=at(5), as_of=at(1)), "a") == []


async def test_a_memory_must_pass_the_filter(store: MemoryStore, tenant: str) -> None:
    await remembered(store, tenant, "a", user_id="ada", importance=0.25)
    await remembered(store, tenant, "b", user_id="bob", metadata={"k": [1], "l": 2})
    assert await seen(store, selected(tenant, {"user_id": "ada"}), "a", "b") == ["a"]
    assert await seen(store, selected(tenant, {"importance": {"gt": 0.25}}), "a", "b") == ["b"]
    assert await seen(store, selected(tenant, {"metadata.l": 2}), "a", "b") == ["b"]
    assert await seen(store, selected(tenant, {"metadata.l": None}), "a", "b") == ["a"]
    assert await seen(store, selected(tenant, {"any": []}), "a", "b") == []


async def test_memories_come_in_the_order_of_the_ids(store: MemoryStore, tenant: str) -> None:
    await remembered(store, tenant, "a")
    await remembered(store, tenant, "b")
    found = await store.get(selected(tenant), ["b", "none", "a", "b"])
    first, second = await one(store, tenant, "a"), await one(store, tenant, "b")
    assert found == [second, None, first, second]
    assert await store.get(selected(tenant), []) == []


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("field", ["created_at", "updated_at", "importance"])
async def test_a_list_is_in_order_and_equals_by_id(
    store: MemoryStore, tenant: str, field: OrderField, descending: bool
) -> None:
    values: dict[str, int] = {"d": 0, "b": 1, "a": 1, "e": 1, "c": 2, "f": 0, "g": 1}
    for id, value in values.items():
        fields: dict[str, Any] = {field: value / 2 if field == "importance" else at(value)}
        await remembered(store, tenant, id, **fields)
    expected = sorted(values, key=lambda id: (values[id], id), reverse=descending)
    order = Order(field, descending)
    for limit in (1, 2, 3, 7, 100):
        assert await pages(store, selected(tenant), order, limit=limit) == expected


async def test_a_list_begins_with_the_newest_unless_told_otherwise(
    store: MemoryStore, tenant: str
) -> None:
    await remembered(store, tenant, "a", created_at=at(0))
    await remembered(store, tenant, "b", created_at=at(0) + TICK)
    assert await pages(store, selected(tenant), Order()) == ["b", "a"]


async def test_a_list_goes_on_behind_a_position_where_no_memory_is(
    store: MemoryStore, tenant: str
) -> None:
    for number, id in enumerate("ace"):
        await remembered(store, tenant, id, created_at=at(number))
    order = Order("created_at", descending=False)
    after = Position(to_microseconds(at(1)), "b")
    page = await store.page(selected(tenant), order=order, after=after, limit=5)
    assert [memory.id for memory in page] == ["c", "e"]
    after = Position(to_microseconds(at(1)), "d")
    page = await store.page(selected(tenant), order=order, after=after, limit=5)
    assert [memory.id for memory in page] == ["e"]


async def test_pages_show_each_memory_once_that_stays_while_others_come_and_go(
    store: MemoryStore, tenant: str
) -> None:
    staying = [f"m{number:02}" for number in range(20)]
    for number, id in enumerate(staying):
        await remembered(store, tenant, id, created_at=at(number // 4))
    await remembered(store, tenant, "m05-gone", created_at=at(1))
    order = Order()
    ids: list[str] = []
    after = None
    step = 0
    while page := await store.page(selected(tenant), order=order, after=after, limit=3):
        ids += [memory.id for memory in page]
        after = position(page[-1], order)
        await remembered(store, tenant, f"m{step:02}-new", created_at=at(step % 5))
        await store.delete(tenant, selected(tenant, {"id": "m05-gone"}).filter, now=NOW)
        step += 1
    assert [id for id in ids if id in staying] == sorted(
        staying, key=lambda id: (int(id[1:]) // 4, id), reverse=True
    )
    assert len(ids) == len(set(ids))


async def test_ids_are_in_the_order_of_their_characters(store: MemoryStore, tenant: str) -> None:
    ids = ["a", "B", "_", "z", "a:b", "a-b", "A", "a.b", "a@b", "10", "9"]
    for id in ids:
        await remembered(store, tenant, id)
    for descending in (True, False):
        expected = sorted(ids, reverse=descending)
        order = Order("created_at", descending)
        assert await pages(store, selected(tenant), order, limit=3) == expected
    matches = await store.search_embedding(selected(tenant), embedding(), limit=4)
    assert [match.id for match in matches] == sorted(ids)[:4]
    assert await ids_by_words(
        store, selected(tenant, {"id": {"in": ids[4:6]}}), ["content"], limit=2
    ) == sorted(ids[4:6])
    records = await store.records(tenant, now=NOW, after="z", limit=3)
    assert [record.memory.id for record in records] == sorted(ids)[sorted(ids).index("z") + 1 :][:3]


async def test_tags_are_counted_the_most_frequent_first_then_by_name(
    store: MemoryStore, tenant: str
) -> None:
    for id, tags in {
        "1": ("b", "c"),
        "2": ("b", "a"),
        "3": ("B", "b"),
        "4": (),
        "5": ("a",),
    }.items():
        await remembered(store, tenant, id, tags=tags)
    assert await store.tags(selected(tenant)) == [
        Count("b", 3),
        Count("a", 2),
        Count("B", 1),
        Count("c", 1),
    ]
    assert await store.tags(selected(tenant, {"tags": "a"})) == [Count("a", 2), Count("b", 1)]


async def test_contexts_are_counted_the_most_frequent_first_then_by_name(
    store: MemoryStore, tenant: str
) -> None:
    contexts = ["work", "work/x", "work", None, "home", "Home"]
    for number, context in enumerate(contexts):
        await remembered(store, tenant, str(number), context=context)
    assert await store.contexts(selected(tenant)) == [
        Count("work", 2),
        Count("Home", 1),
        Count("home", 1),
        Count("work/x", 1),
    ]
    under = selected(tenant, {"context": {"under": "work"}})
    assert await store.contexts(under) == [Count("work", 2), Count("work/x", 1)]


async def test_nothing_selected_is_nothing_counted(store: MemoryStore, tenant: str) -> None:
    assert await store.count(selected(tenant)) == 0
    assert await store.tags(selected(tenant)) == []
    assert await store.contexts(selected(tenant)) == []
    assert await store.page(selected(tenant), order=Order(), after=None, limit=5) == []
    assert await store.stats(tenant, now=NOW) == Stats(
        memories=0, current=0, relations=0, tags=0, contexts=0, users=0, agents=0, sessions=0
    )


async def test_stats_are_of_what_is_not_forgotten(store: MemoryStore, tenant: str) -> None:
    scope = {"user_id": "ada", "agent_id": "one", "session_id": "s1"}
    await remembered(store, tenant, "a", tags=("t", "u"), context="work", **scope)
    await remembered(
        store, tenant, "b", tags=("t",), context="home", **(scope | {"user_id": "bob"})
    )
    await remembered(store, tenant, "future", valid_from=at(60), tags=(), context=None)
    gone = {"user_id": "eve", "agent_id": "two", "session_id": "s2"}
    await remembered(store, tenant, "gone", tags=("v",), context="x", expires_at=at(5), **gone)
    await store.relate(tenant, [relation("a", "b"), relation("b", "a"), relation("a", "gone")])
    before = await store.stats(tenant, now=at(5) - TICK)
    assert (before.memories, before.current, before.relations) == (4, 3, 3)
    assert await store.stats(tenant, now=at(5)) == Stats(
        memories=3, current=2, relations=2, tags=2, contexts=2, users=2, agents=1, sessions=1
    )


@pytest.mark.parametrize(("minute", "current"), [(0, 1), (4, 1), (5, 1), (6, 1)])
async def test_one_of_a_chain_is_current_at_any_time(
    store: MemoryStore, tenant: str, minute: int, current: int
) -> None:
    await remembered(store, tenant, "a")
    await remembered(store, tenant, "b", supersedes="a", valid_from=at(5))
    stats = await store.stats(tenant, now=at(minute))
    assert (stats.memories, stats.current) == (2, current)


async def test_tenants_are_those_that_have_memories(store: MemoryStore, tenant: str) -> None:
    ours = sorted([f"{tenant} b", f"{tenant} a", f"{tenant} é", unique_tenant()])
    for name in ours:
        await remembered(store, name, "a")
    await store.receipt(tenant, "key")
    tenants = await store.tenants()
    assert [name for name in tenants if name in ours] == ours
    assert tenants == sorted(set(tenants))
    assert tenant not in tenants
    await store.delete(ours[0], selected(tenant).filter, now=NOW)
    assert ours[0] not in await store.tenants()


async def test_relations_lead_from_or_to_the_memories_in_order(
    store: MemoryStore, tenant: str
) -> None:
    for id in "abcd":
        await remembered(store, tenant, id)
    given = [
        relation("b", "a", "SUPPORTS", weight=0.5, created_at=at(1)),
        relation("a", "c", "their own"),
        relation("a", "b", "CAUSES"),
        relation("a", "a", "CAUSES"),
        relation("c", "d", "CAUSES"),
    ]
    await store.relate(tenant, given)
    ordered = sorted(given, key=lambda link: (link.source, link.relation_type, link.target))
    around_a = [link for link in ordered if "a" in (link.source, link.target)]
    selection = selected(tenant)
    assert await store.relations(selection, ["a"], relation_types=None) == around_a
    assert await store.relations(selection, ["a", "d", "none"], relation_types=None) == ordered
    found = await store.relations(selection, ["a"], relation_types=["CAUSES", "SUPPORTS"])
    assert found == [link for link in around_a if link.relation_type != "their own"]
    assert await store.relations(selection, ["a"], relation_types=[]) == []
    assert await store.relations(selection, [], relation_types=None) == []


async def test_the_memory_on_the_other_side_of_a_relation_is_selected_or_given(
    store: MemoryStore, tenant: str
) -> None:
    await remembered(store, tenant, "a", user_id="ada")
    await remembered(store, tenant, "b", user_id="bob")
    await remembered(store, tenant, "c", user_id="bob")
    await remembered(store, tenant, "gone", user_id="ada", expires_at=at(5))
    given = [relation("a", "b"), relation("b", "c"), relation("c", "a"), relation("gone", "b")]
    await store.relate(tenant, given)

    async def found(document: dict[str, Any], *ids: str) -> list[tuple[str, str]]:
        selection = selected(tenant, document, now=at(5))
        links = await store.relations(selection, ids, relation_types=None)
        return [(link.source, link.target) for link in links]

    assert await found({"user_id": "ada"}, "b") == [("a", "b")]
    assert await found({"user_id": "ada"}, "b", "c") == [("a", "b"), ("b", "c"), ("c", "a")]
    assert await found({"user_id": "nobody"}, "b") == []
    assert await found({"user_id": "nobody"}, "b", "c") == [("b", "c")]
    assert await found({}, "b") == [("a", "b"), ("b", "c")]
    assert await found({"user_id": "bob"}, "gone") == [("gone", "b")]
