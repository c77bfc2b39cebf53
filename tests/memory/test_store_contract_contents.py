"""Whatever memories hold is kept exactly, and no tenant's calls reach another's."""

from typing import Any

import pytest

from service.memory.filters import EVERYTHING
from service.memory.model import Draft, NewRelation, Receipt
from service.memory.store import MemoryStore, Order
from service.memory.words import query_words_of
from tests.memory.memories import (
    NOW,
    at,
    draft,
    embedding,
    everything,
    ids_by_words,
    one,
    outcomes,
    relation,
    remember,
    selected,
    whole_draft,
)

pytestmark = pytest.mark.anyio

HOSTILE = {
    "nothing": "",
    "NUL": "before\x00after",
    "NUL alone": "\x00",
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f\x85\u2028",
    "line ends": "a\r\nb\rc\n",
    "spaces around": "  tea\t\n ",
    "quotes": "'\"`'';\"\"`` \\' \\\" \\\\",
    "SQL": "'); DROP TABLE memory; -- %_ /* ? :x @y $z */",
    "Cypher": "'}) DETACH DELETE n // $tenant `` {x: 1} }) //",
    "full-text syntax": 'AND OR NOT NEAR(a b) "a" a* a~2 +a -b (c) [a TO b] /x/ a:b ^ col:\\',
    "JSON": '{"a": [null, "\\u0000"]}',
    "emoji": "🎉 👩‍👩‍👧‍👦 🇯🇵 ❤️",
    "right to left": "\u202eabc \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627\u202c",
    "combining": "e\u0301 é Z\u0351\u036b\u0343 \u0301",
    "noncharacters": "\ufeff\ufffe\uffff\ufffd\U0010ffff",
    "private use": "\ue000\U000f0000",
    "percent": "100%_%",
    "long": "tea and 東京 and 🎉; " * 3_000,
    "one long word": "x" * 60_000,
    "long words of another script": "ж" * 300 + " " + "\u0915" * 300,
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_any_text_is_kept_exactly_and_found(
    store: MemoryStore, tenant: str, kind: str
) -> None:
    text = HOSTILE[kind]
    given = draft(text, title=text, id="a")
    assert await outcomes(store, tenant, given, draft("other", id="b")) == ["created", "created"]
    assert await one(store, tenant, "a") == given.memory
    assert await outcomes(store, tenant, draft(text)) == ["duplicate"]
    assert await outcomes(store, tenant, draft(text, id="a")) == ["unchanged"]
    words = query_words_of(text)
    found = await ids_by_words(store, selected(tenant), words, limit=5)
    assert found == (["a"] if words else [])
    for word in words:
        assert await ids_by_words(store, selected(tenant), [word], limit=5) == ["a"]
    if len(text) < 1_000:
        assert await store.count(selected(tenant, {"title": text})) == 1


@pytest.mark.parametrize(
    "kind", [kind for kind in HOSTILE if len(HOSTILE[kind]) in range(1, 1_000)]
)
async def test_any_short_text_is_an_id_a_tag_a_context_and_the_rest(
    store: MemoryStore, tenant: str, kind: str
) -> None:
    text = HOSTILE[kind]
    tenant += text
    link = NewRelation(target="other", relation_type=text)
    given = draft(
        "tea",
        id=text,
        memory_type=text,
        tags=(text,),
        context=text,
        user_id=text,
        agent_id=text,
        session_id=text,
        metadata={text: text},
        relations=[link],
    )
    receipt = Receipt(key=text, fingerprint=text, results=())
    results = await store.remember(tenant, [draft(id="other"), given], now=NOW, receipt=receipt)
    assert [result.outcome for result in results] == ["created", "created"]
    assert await one(store, tenant, text) == given.memory
    for field in (
        "id",
        "memory_type",
        "context",
        "user_id",
        "agent_id",
        "tags",
        f"metadata.{text}",
    ):
        assert await store.count(selected(tenant, {field: text})) == 1
    assert [tag.name for tag in await store.tags(selected(tenant))] == [text]
    assert [context.name for context in await store.contexts(selected(tenant))] == [text]
    (found,) = await store.relations(selected(tenant), [text], relation_types=[text])
    assert (found.source, found.relation_type, found.target) == (text, text, "other")
    assert (await store.history(selected(tenant), text))[0].id == text
    assert tenant in await store.tenants()
    kept = await store.receipt(tenant, text)
    assert kept is not None
    assert list(kept.results) == results
    assert (await store.delete(tenant, EVERYTHING, now=NOW)).relations == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"": ""},
        {"null": None, "true": True, "one": 1, "float": 1.0, "text": "1"},
        {"numbers": [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 0.1, 1e308, 5e-324, -0.0]},
        {"a.b": 1, "$": 2, "$.a": 3, "[0]": 4, '"': 5, "'": 6, "`": 7, "\x00": 8, "é": 9},
        {"empty": [{}, [], ""], "Ä": "🎉"},
        {"deep": [[[[{"a": [{"b": {"c": [[[]]]}}]}]]]]},
        {f"key {number}": "x" * 100 for number in range(300)},
    ],
)
async def test_metadata_is_kept_exactly(
    store: MemoryStore, tenant: str, metadata: dict[str, Any]
) -> None:
    await remember(store, tenant, draft(id="a", metadata=metadata))
    kept = (await one(store, tenant, "a")).metadata
    assert repr(kept) == repr(metadata)


async def test_deep_metadata_is_kept(store: MemoryStore, tenant: str) -> None:
    deep: Any = "bottom"
    for _ in range(200):
        deep = {"in": [deep]}
    await remember(store, tenant, draft(id="a", metadata={"deep": deep}))
    assert (await one(store, tenant, "a")).metadata == {"deep": deep}
    assert await store.count(selected(tenant, {"metadata.deep": None})) == 0


@pytest.mark.parametrize("importance", [0.0, 1.0, 0.1, 1 / 3, 5e-324])
async def test_importance_is_kept_to_the_last_bit(
    store: MemoryStore, tenant: str, importance: float
) -> None:
    await remember(store, tenant, draft(id="a", importance=importance))
    assert (await one(store, tenant, "a")).importance == importance
    assert await store.count(selected(tenant, {"importance": importance})) == 1
    assert await store.count(selected(tenant, {"importance": {"gt": importance}})) == 0


async def test_many_tags_are_kept_in_order(store: MemoryStore, tenant: str) -> None:
    tags = tuple(sorted(f"tag {number} é" for number in range(200)))
    await remember(store, tenant, draft(id="a", tags=tags))
    assert (await one(store, tenant, "a")).tags == tags


def same_for_every_tenant() -> list[Draft]:
    link = NewRelation(target="a", relation_type="CAUSES", weight=0.5)
    return [
        whole_draft(id="a"),
        draft("two", id="b", supersedes="a", valid_from=at(1), relations=[link]),
        draft("three", id="c", tags=("t",), context="c"),
    ]


async def test_tenants_with_the_same_ids_and_contents_are_apart(
    store: MemoryStore, tenant: str
) -> None:
    other = f"{tenant} other"
    receipt = Receipt(key="key", fingerprint="request", results=())
    for name in (tenant, other):
        results = await store.remember(name, same_for_every_tenant(), now=NOW, receipt=receipt)
        assert [result.outcome for result in results] == ["created"] * 3
    before = await everything(store, other)
    selection = selected(tenant)
    ids = ["a", "b", "c"]

    changed = await one(store, tenant, "c")
    assert await store.update(tenant, changed, embedding(0, 1), expected_version=1) is not None
    await store.relate(tenant, [relation("c", "a"), relation("b", "a", "CAUSES", weight=9.0)])
    assert await store.unrelate(tenant, "b", "a", "CAUSES") == 1
    await remember(store, tenant, draft("four", id="b", replace=True), draft("new", supersedes="c"))
    assert await outcomes(store, other, draft("new", id="d", replace=True)) == ["created"]
    await store.delete(other, selected(other, {"id": "d"}).filter, now=NOW)
    assert await everything(store, other) == before

    assert await store.count(selection) == 4
    matches = await store.search_embedding(selection, embedding(), limit=10)
    assert len(matches) == 4
    assert await ids_by_words(store, selection, ["two"], limit=10) == []
    assert await ids_by_words(store, selected(other), ["two"], limit=10) == ["b"]
    assert len(await store.page(selection, order=Order(), after=None, limit=10)) == 4
    assert (await store.embeddings(other, ["c"])).tolist() == [embedding().tolist()]

    assert (await store.delete(tenant, EVERYTHING, now=NOW)).memories == 4
    assert await everything(store, other) == before
    assert await store.get(selection, ids) == [None] * 3
    assert await store.history(selection, "a") == []
    assert await store.relations(selection, ids, relation_types=None) == []
    assert await store.relations_after(tenant, None, limit=10) == []
    assert not (await store.embeddings(tenant, ids)).any()
    assert await store.relate(tenant, [relation("a", "b")]) in (["a", "b"], ["b", "a"])
    assert await store.unrelate(other, "b", "a", "CAUSES") == 1


async def test_the_keys_of_tenants_are_apart(store: MemoryStore, tenant: str) -> None:
    other = f"{tenant} other"
    for name, fingerprint in ((tenant, "one"), (other, "two")):
        receipt = Receipt(key="key", fingerprint=fingerprint, results=())
        await store.remember(name, [draft("tea")], now=NOW, receipt=receipt)
        kept = await store.receipt(name, "key")
        assert kept is not None
        assert kept.fingerprint == fingerprint


async def test_what_another_tenant_has_is_missing(store: MemoryStore, tenant: str) -> None:
    await remember(store, f"{tenant} other", draft("tea", id="a"))
    link = NewRelation(target="a", relation_type="CAUSES")
    assert await outcomes(
        store,
        tenant,
        draft("tea", relations=[link]),
        draft("tea", supersedes="a"),
        draft("tea"),
    ) == ["missing_target", "missing_superseded", "created"]
    assert await store.update(tenant, (draft("x", id="a")).memory, None, expected_version=1) is None


async def test_records_are_loaded_into_their_tenant_alone(store: MemoryStore, tenant: str) -> None:
    other = f"{tenant} other"
    await remember(store, tenant, *same_for_every_tenant())
    before = await everything(store, tenant)
    records = await store.records(tenant, now=NOW, after=None, limit=10)
    assert await store.load(other, records) == ["created"] * 3
    assert await store.load_relations(tenant, []) == 0
    assert await store.relations_after(other, None, limit=10) == []
    assert await everything(store, tenant) == before
    assert await store.relations(selected(other), ["a", "b"], relation_types=None) == []
