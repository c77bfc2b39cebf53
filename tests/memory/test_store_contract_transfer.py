"""Reading all of a tenant, writing it somewhere else, and the exchange of all embeddings."""

from typing import Any

import msgspec
import numpy as np
import pytest

from service.errors import EmbeddingModelMismatch, InvalidInput
from service.memory.filters import EVERYTHING, parse_filter
from service.memory.model import NewRelation, Record, Relation
from service.memory.store import EmbeddingModel, MemoryStore
from service.memory.words import words_of
from tests.memory.conftest import OpenStore
from tests.memory.memories import (
    MODEL,
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
    random_embeddings,
    relation,
    remember,
    selected,
    whole_draft,
)

pytestmark = pytest.mark.anyio

NEXT = EmbeddingModel(name="next", digest="b" * 64, dimensions=24)
THIRD = EmbeddingModel(name="third", digest="c" * 64, dimensions=24)


async def fill(store: MemoryStore, tenant: str) -> None:
    """Memories of every kind: chained, related, with all fields and with none."""
    directions = random_embeddings(6)
    link = NewRelation(target="a", relation_type="their own", weight=0.25)
    assert set(
        await outcomes(
            store,
            tenant,
            whole_draft(id="a", direction=directions[0]),
            draft("two", id="b", direction=directions[1], supersedes="a", valid_from=at(1)),
            draft("three", id="c", direction=directions[2], supersedes="b", valid_from=at(2)),
            draft("東京\x00🎉", id="d", direction=directions[3], relations=[link]),
            draft("five", id="e", direction=directions[4], created_at=at(-60), title=""),
            draft("six", id="f", direction=directions[5], relations=[link], valid_from=at(60)),
        )
    ) == {"created"}
    await store.delete(tenant, parse_filter({"id": "b"}), now=NOW)
    await store.relate(tenant, [relation("c", "a", "CAUSES", created_at=at(1)), relation("e", "e")])
    changed = msgspec.structs.replace(await one(store, tenant, "e"), tags=("x",))
    await store.update(tenant, changed, None, expected_version=1)


async def all_records(store: MemoryStore, tenant: str, *, limit: int) -> list[Record]:
    records: list[Record] = []
    after = None
    while page := await store.records(tenant, now=NOW, after=after, limit=limit):
        assert len(page) <= limit
        records += page
        after = page[-1].memory.id
    return records


async def all_relations(store: MemoryStore, tenant: str, *, limit: int) -> list[Relation]:
    relations: list[Relation] = []
    after = None
    while page := await store.relations_after(tenant, after, limit=limit):
        assert len(page) <= limit
        relations += page
        after = (page[-1].source, page[-1].relation_type, page[-1].target)
    return relations


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_records_are_all_memories_by_id_with_their_embeddings(
    store: MemoryStore, tenant: str, limit: int
) -> None:
    directions = random_embeddings(5)
    drafts = [draft(id, id=id, direction=directions[n]) for n, id in enumerate("dbeca")]
    gone = draft("gone", id="bb", expires_at=NOW)
    await remember(store, tenant, *drafts, gone, now=at(-1))
    records = await all_records(store, tenant, limit=limit)
    assert [record.memory.id for record in records] == list("abcde")
    for given in drafts:
        (record,) = [record for record in records if record.memory.id == given.memory.id]
        assert record.memory == given.memory
        np.testing.assert_array_equal(record.embedding, given.embedding)


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_all_relations_come_by_source_type_and_target(
    store: MemoryStore, tenant: str, limit: int
) -> None:
    await remember(
        store,
        tenant,
        draft("one", id="a"),
        draft("two", id="b", supersedes="a", created_at=at(3)),
        draft("three", id="c"),
    )
    given = [
        relation("b", "c", "their own", weight=0.5, created_at=at(1)),
        relation("b", "a", "CAUSES"),
        relation("b", "c", "CAUSES"),
        relation("a", "c", "SUPPORTS"),
        relation("b", "a", "RELATED_TO"),
    ]
    await store.relate(tenant, given)
    given.append(relation("b", "a", "SUPERSEDES", weight=1.0, created_at=at(3)))
    expected = sorted(given, key=lambda link: (link.source, link.relation_type, link.target))
    assert await all_relations(store, tenant, limit=limit) == expected


async def test_what_is_read_and_written_again_is_the_same(store: MemoryStore, tenant: str) -> None:
    await fill(store, tenant)
    copy = f"{tenant} copy"
    records = await all_records(store, tenant, limit=2)
    relations = await all_relations(store, tenant, limit=2)
    for start in range(0, len(records), 2):
        assert await store.load(copy, records[start : start + 2]) == ["created"] * len(
            records[start : start + 2]
        )
    assert await store.load_relations(copy, relations) == len(relations)
    assert await everything(store, copy) == await everything(store, tenant)
    ids = [record.memory.id for record in records]
    for minute in (-100, 0, 1, 2, 60):
        then, there = (selected(name, as_of=at(minute)) for name in (tenant, copy))
        assert await store.get(there, ids) == await store.get(then, ids)
    for words in (["two"], ["tea", "three"]):
        assert await ids_by_words(store, selected(copy), words, limit=5) == (
            await ids_by_words(store, selected(tenant), words, limit=5)
        )
    np.testing.assert_array_equal(
        await store.embeddings(copy, ids), await store.embeddings(tenant, ids)
    )


async def test_what_was_loaded_lives_on_as_if_it_had_been_remembered(
    store: MemoryStore, tenant: str
) -> None:
    await fill(store, tenant)
    copy = f"{tenant} copy"
    await store.load(copy, await all_records(store, tenant, limit=100))
    await store.load_relations(copy, await all_relations(store, tenant, limit=100))
    for name in (tenant, copy):
        assert await outcomes(
            store,
            name,
            draft("three"),
            draft("other", id="c"),
            draft("seven", supersedes="a"),
            draft("eight", id="h", supersedes="c", valid_from=at(9)),
        ) == ["duplicate", "conflict", "already_superseded", "created"]
        await store.delete(name, parse_filter({"id": "c"}), now=NOW)
        history = await store.history(selected(name), "a")
        assert [(found.id, found.valid_to) for found in history] == [("a", at(9)), ("h", None)]


async def test_loading_the_same_again_changes_nothing(store: MemoryStore, tenant: str) -> None:
    await fill(store, tenant)
    before = await everything(store, tenant)
    records = await all_records(store, tenant, limit=100)
    assert await store.load(tenant, records) == ["unchanged"] * len(records)
    assert await everything(store, tenant) == before
    await store.load_relations(tenant, await all_relations(store, tenant, limit=100))
    assert await everything(store, tenant) == before


async def test_a_record_is_loaded_without_its_supersession(store: MemoryStore, tenant: str) -> None:
    given = memory("two", id="b", supersedes="a", superseded_by="c", valid_to=at(5), version=4)
    assert await store.load(tenant, [Record(given, embedding())]) == ["created"]
    (found,) = await store.get(selected(tenant), ["b"])
    assert found == msgspec.structs.replace(given, supersedes=None, superseded_by=None)


@pytest.mark.parametrize(
    ("version", "minute", "expected"),
    [(2, 5, "replaced"), (3, 0, "replaced"), (2, 6, "replaced"), (2, 4, "kept"), (1, 9, "kept")],
)
async def test_of_two_that_differ_the_one_that_is_not_older_stays(
    store: MemoryStore, tenant: str, version: int, minute: int, expected: str
) -> None:
    there = memory("there", id="a", version=2, updated_at=at(5), tags=("old",))
    loaded = memory("loaded", id="a", version=version, updated_at=at(minute), tags=("new",))
    await store.load(tenant, [Record(there, embedding(1))])
    assert await store.load(tenant, [Record(loaded, embedding(0, 1))]) == [expected]
    stays = loaded if expected == "replaced" else there
    assert await one(store, tenant, "a") == stays
    assert [tag.name for tag in await store.tags(selected(tenant))] == list(stays.tags)
    assert await ids_by_words(store, selected(tenant), words_of(stays.content), limit=5) == ["a"]
    direction = embedding(0, 1) if expected == "replaced" else embedding(1)
    assert (await store.embeddings(tenant, ["a"])).tolist() == [direction.tolist()]


async def test_relations_are_loaded_between_memories_that_are_there(
    store: MemoryStore, tenant: str
) -> None:
    await store.load(tenant, [Record(memory(id, id=id), embedding()) for id in "abc"])
    given = [
        relation("a", "b", "CAUSES", weight=0.5, created_at=at(1)),
        relation("a", "none", "CAUSES"),
        relation("b", "none", "SUPERSEDES"),
        relation("c", "b", "SUPERSEDES"),
    ]
    assert await store.load_relations(tenant, given) == 2
    assert await store.relations_after(tenant, None, limit=9) == [
        given[0],
        relation("c", "b", "SUPERSEDES"),
    ]


async def test_loaded_supersession_sets_the_links_and_no_times(
    store: MemoryStore, tenant: str
) -> None:
    older = memory("one", id="a", valid_to=at(3))
    newer = memory("two", id="b", valid_from=at(4))
    await store.load(tenant, [Record(older, embedding()), Record(newer, embedding())])
    await store.load_relations(tenant, [relation("b", "a", "SUPERSEDES")])
    assert await store.history(selected(tenant), "a") == [
        msgspec.structs.replace(older, superseded_by="b"),
        msgspec.structs.replace(newer, supersedes="a"),
    ]


@pytest.mark.parametrize("unfit", UNFIT)
async def test_a_record_with_an_unfit_embedding_is_refused_with_all_records(
    store: MemoryStore, tenant: str, unfit: str
) -> None:
    records = [Record(memory("one"), embedding()), Record(memory("two"), UNFIT[unfit])]
    with pytest.raises(InvalidInput):
        await store.load(tenant, records)
    assert await store.count(selected(tenant)) == 0


async def test_a_store_tells_what_it_is(store: MemoryStore, store_name: str) -> None:
    await store.ping()
    info = await store.info()
    assert info.kind == store_name.split("-")[0]
    assert info.embedding_model == MODEL
    assert info.address
    assert info.version
    assert info.vector_search


async def test_what_was_written_is_there_when_the_store_is_opened_again(
    open_store: OpenStore, tenant: str
) -> None:
    async with open_store() as store:
        await fill(store, tenant)
        before = await everything(store, tenant)
    async with open_store() as store:
        assert await everything(store, tenant) == before


@pytest.mark.parametrize(
    "other",
    [
        msgspec.structs.replace(MODEL, digest="d" * 64),
        msgspec.structs.replace(MODEL, dimensions=8),
    ],
    ids=["digest", "dimensions"],
)
async def test_a_store_of_another_model_is_refused(
    open_store: OpenStore, other: EmbeddingModel
) -> None:
    async with open_store():
        pass
    with pytest.raises(EmbeddingModelMismatch):
        async with open_store(other):
            pass
    async with open_store() as store:
        assert (await store.info()).embedding_model == MODEL


async def test_without_a_model_a_store_is_opened_as_it_is(
    open_store: OpenStore, tenant: str
) -> None:
    async with open_store() as store:
        await remember(store, tenant, draft("tea", id="a"))
    async with open_store(None) as store:
        assert (await store.info()).embedding_model == MODEL
        (record,) = await store.records(tenant, now=NOW, after=None, limit=5)
        assert record.memory.id == "a"


def next_embeddings(count: int) -> Any:
    return np.eye(NEXT.dimensions, dtype=np.float32)[:count]  # (count, dimensions)


async def test_all_embeddings_are_exchanged_for_those_of_another_model(
    empty_place: OpenStore,
) -> None:
    async with empty_place() as store:
        await remember(store, "first", *(draft(id, id=id, tags=("t",)) for id in "abc"))
        await remember(store, "second", draft("d", id="d"))
        before = [await everything(store, tenant) for tenant in ("first", "second")]
    async with empty_place(NEXT, re_embedding=True) as store:
        assert await store.start_re_embedding(NEXT) is None
        await store.replace_embeddings("first", ["a", "b", "c"], next_embeddings(3))
        await store.replace_embeddings("second", ["d"], next_embeddings(1))
        await store.finish_re_embedding()
    async with empty_place(NEXT) as store:
        assert (await store.info()).embedding_model == NEXT
        for tenant, old in zip(("first", "second"), before, strict=True):
            ids = [memory.id for memory in old[0]]
            assert await store.get(selected(tenant), ids) == old[0]
            found = await store.embeddings(tenant, ids)
            np.testing.assert_array_equal(found, next_embeddings(len(ids)))
        (match,) = await store.search_embedding(selected("first"), next_embeddings(2)[1], limit=1)
        assert match.id == "b"
        assert match.similarity == pytest.approx(1, abs=1e-5)
        await remember(store, "first", draft("new", id="n", direction=next_embeddings(9)[8]))
        (match,) = await store.search_embedding(selected("first"), next_embeddings(9)[8], limit=1)
        assert match.id == "n"
    with pytest.raises(EmbeddingModelMismatch):
        async with empty_place():
            pass


async def test_re_embedding_goes_on_behind_the_place_it_has_come_to(
    empty_place: OpenStore,
) -> None:
    async with empty_place() as store:
        await remember(store, "first", *(draft(id, id=id) for id in "abc"))
        await remember(store, "second", draft("d", id="d"))
    async with empty_place(NEXT, re_embedding=True) as store:
        assert await store.start_re_embedding(NEXT) is None
        await store.replace_embeddings("first", ["a", "b"], next_embeddings(2))
    async with empty_place(NEXT, re_embedding=True) as store:
        assert await store.start_re_embedding(NEXT) == ("first", "b")
        await store.replace_embeddings("first", ["c"], next_embeddings(3)[2:])
        assert await store.start_re_embedding(NEXT) == ("first", "c")
        await store.replace_embeddings("second", ["d"], next_embeddings(4)[3:])
        await store.finish_re_embedding()
    async with empty_place(NEXT) as store:
        matches = await store.search_embedding(selected("first"), next_embeddings(1)[0], limit=9)
        assert [match.id for match in matches] == ["a", "b", "c"]


async def test_until_re_embedding_is_finished_the_store_is_opened_for_nothing_else(
    empty_place: OpenStore,
) -> None:
    async with empty_place() as store:
        await remember(store, "first", draft("a", id="a"))
    async with empty_place(NEXT, re_embedding=True) as store:
        assert await store.start_re_embedding(NEXT) is None
    for model in (MODEL, NEXT):
        with pytest.raises(EmbeddingModelMismatch):
            async with empty_place(model):
                pass
    async with empty_place(THIRD, re_embedding=True) as store:
        with pytest.raises(EmbeddingModelMismatch):
            await store.start_re_embedding(THIRD)


@pytest.mark.parametrize("unfit", UNFIT)
async def test_an_unfit_embedding_of_the_next_model_is_refused(
    empty_place: OpenStore, unfit: str
) -> None:
    async with empty_place() as store:
        await remember(store, "first", draft("a", id="a"))
    async with empty_place(NEXT, re_embedding=True) as store:
        await store.start_re_embedding(NEXT)
        with pytest.raises(InvalidInput):
            await store.replace_embeddings("first", ["a"], UNFIT[unfit][np.newaxis])
        assert await store.start_re_embedding(NEXT) is None


async def test_an_empty_store_can_be_loaded_and_emptied(store: MemoryStore, tenant: str) -> None:
    assert await store.load(tenant, []) == []
    assert await store.load_relations(tenant, []) == 0
    assert await store.relate(tenant, []) == []
    assert await store.records(tenant, now=NOW, after=None, limit=5) == []
    assert await store.relations_after(tenant, None, limit=5) == []
    assert (await store.delete(tenant, EVERYTHING, now=NOW)).memories == 0
