"""Memories, embeddings and filters for tests: made to order, and at random from few values.

Few values, so that ties, shared tags and equal contents are the rule and not luck.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st

from service.memory.filters import parse_filter
from service.memory.model import (
    Draft,
    Embedding,
    Memory,
    NewRelation,
    Outcome,
    Relation,
    Remembered,
    new_id,
)
from service.memory.store import EmbeddingModel, MemoryStore, Selection

DIMENSIONS = 16
MODEL = EmbeddingModel(name="model", digest="a" * 64, dimensions=DIMENSIONS)
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    """So many minutes after NOW."""
    return NOW + timedelta(minutes=minutes)


def unique_tenant() -> str:
    """A tenant that no other test knows."""
    return f"tenant-{uuid.uuid4().hex}"


def embedding(*components: float) -> Embedding:
    """These components and then zeros, at unit length; without any, the first direction."""
    given = components or (1.0,)
    made = np.zeros(DIMENSIONS, np.float32)
    made[: len(given)] = given
    return made / np.linalg.norm(made)


UNFIT: dict[str, Embedding] = {
    "too short": np.ones(1, np.float32),
    "of another size": np.eye(1, DIMENSIONS + 1, dtype=np.float32)[0],
    "with NaN": np.full(DIMENSIONS, np.nan, np.float32),
    "with infinity": np.full(DIMENSIONS, np.inf, np.float32),
    "of length 0": np.zeros(DIMENSIONS, np.float32),
    "of length 2": 2 * embedding(),
}


def random_embeddings(count: int, *, seed: int = 0) -> list[Embedding]:
    """Embeddings in random directions; the same for the same seed."""
    made = np.random.default_rng(seed).normal(size=(count, DIMENSIONS)).astype(np.float32)
    return list(made / np.linalg.norm(made, axis=1, keepdims=True))


def memory(content: str = "tea", *, created_at: datetime = NOW, **fields: Any) -> Memory:
    """A memory with an id and times of its own."""
    given: dict[str, Any] = {
        "id": new_id(created_at),
        "updated_at": created_at,
        "valid_from": created_at,
    }
    given |= fields
    return Memory(content=content, created_at=created_at, **given)


def draft(
    content: str = "tea",
    *,
    direction: Embedding | None = None,
    relations: Sequence[NewRelation] = (),
    replace: bool = False,
    **fields: Any,
) -> Draft:
    """A memory to remember; with the fields `id` or `replace` it has the client's own id."""
    return Draft(
        memory=memory(content, **fields),
        embedding=embedding() if direction is None else direction,
        relations=tuple(relations),
        own_id="id" in fields,
        replace=replace,
    )


def whole_draft(**fields: Any) -> Draft:
    """A memory to remember that has every field but those of supersession."""
    given: dict[str, Any] = {
        "title": "Drinks",
        "memory_type": "preference",
        "tags": ("a", "b"),
        "metadata": {"cups": 2, "with": ["milk", {"sugar": None}], "hot": True, "share": 0.1},
        "importance": 0.75,
        "context": "home/kitchen",
        "user_id": "ada",
        "agent_id": "agent",
        "session_id": "s1",
        "updated_at": at(1),
        "valid_from": at(-1),
        "expires_at": at(60),
    }
    return draft("tea with milk", **(given | fields))


def relation(
    source: str, target: str, relation_type: str = "RELATED_TO", **fields: Any
) -> Relation:
    """A relation that was made now."""
    given = {"created_at": NOW} | fields
    return Relation(source=source, target=target, relation_type=relation_type, **given)


def selected(
    tenant: str,
    document: dict[str, Any] | None = None,
    *,
    now: datetime = NOW,
    as_of: datetime | None = None,
) -> Selection:
    """The memories of a tenant that pass the filter of this document."""
    return Selection(tenant=tenant, now=now, as_of=as_of, filter=parse_filter(document or {}))


async def remember(
    store: MemoryStore, tenant: str, *drafts: Draft, now: datetime = NOW
) -> list[Remembered]:
    """What became of the drafts, remembered in one call."""
    return await store.remember(tenant, drafts, now=now)


async def outcomes(
    store: MemoryStore, tenant: str, *drafts: Draft, now: datetime = NOW
) -> list[Outcome]:
    """The outcomes of the drafts, remembered in one call."""
    return [result.outcome for result in await remember(store, tenant, *drafts, now=now)]


async def one(store: MemoryStore, tenant: str, id: str) -> Memory:
    """The memory of this id, which must be there."""
    (found,) = await store.get(selected(tenant), [id])
    assert found is not None
    return found


async def everything(store: MemoryStore, tenant: str) -> list[Any]:
    """All that the store tells of a tenant, but for embeddings, to compare before and after."""
    selection = selected(tenant)
    records = await store.records(tenant, now=NOW, after=None, limit=10_000)
    ids = [record.memory.id for record in records]
    return [
        [record.memory for record in records],
        await store.relations_after(tenant, None, limit=10_000),
        await store.relations(selection, ids, relation_types=None),
        [await store.history(selection, id) for id in ids],
        await store.tags(selection),
        await store.contexts(selection),
        await store.stats(tenant, now=NOW),
        [match.id for match in await store.search_embedding(selection, embedding(), limit=10_000)],
    ]


def without_supersession(memory: Memory) -> Memory:
    """The memory as one writes it that knows nothing of the others."""
    return msgspec.structs.replace(memory, supersedes=None, superseded_by=None, valid_to=None)


# Values at random. Embeddings are of small whole numbers, so that their cosines are either equal or
# far from equal, and far from where rounding to SIMILARITY_DECIMALS goes up or down.
DIRECTIONS = [
    embedding(*components)
    for components in (
        (1,),
        (0, 1),
        (0, 0, 1),
        (-1,),
        (1, 1),
        (1, -1),
        (1, 0, 1),
        (1, 1, 1, 1),
        (2, 1, 2),
        (0, 3, 0, 4),
    )
]
CONTENTS = [
    "the cat sat on the mat",
    "two cats drink tea",
    "tea with milk, and more tea",
    "milk",
    "東京の猫",
    "Émile's café",
    "…",
]
QUERIES = ["cat", "tea", "milk tea", "cats drinking", "東京", "the", "emile", "zebra", ""]
TIMES = [at(minutes) for minutes in (0, 1, 2, 3)] + [at(1) + timedelta(microseconds=1)]
USERS = [None, "ada", "Ada", "bob"]
TYPES = ["note", "fact"]
TITLES = [None, "", "Tea", "tea"]
CONTEXTS = [None, "work", "work/x", "work/x/y", "workshop", "Work"]
TAGS = ["a", "b", "A", "é", "a b"]
IMPORTANCES = [0.0, 0.1, 0.5, 1.0]
KEYS = ["k", "a.b", 'q"$[0]', "é"]
SCALARS = [
    None,
    True,
    False,
    0,
    1,
    1.0,
    0.5,
    -1,
    2**53 + 1,
    2**53,
    "",
    "1",
    "true",
    "null",
    "a",
    "A",
]
COMPARISONS = ["lt", "lte", "gt", "gte"]


def scalars() -> st.SearchStrategy[Any]:
    """What metadata is compared with."""
    return st.sampled_from(SCALARS)


def metadata() -> st.SearchStrategy[dict[str, Any]]:
    """Metadata with few keys, whose values are of every kind."""
    values = scalars() | st.sampled_from([[], [1], ["a"], {}, {"k": 1}])
    return st.dictionaries(st.sampled_from(KEYS), values, max_size=3)


def memories(ids: st.SearchStrategy[str]) -> st.SearchStrategy[Memory]:
    """Memories that share most of what they have."""
    return st.builds(
        Memory,
        id=ids,
        content=st.sampled_from(CONTENTS),
        title=st.sampled_from(TITLES),
        memory_type=st.sampled_from(TYPES),
        tags=st.sets(st.sampled_from(TAGS), max_size=3).map(lambda tags: tuple(sorted(tags))),
        metadata=metadata(),
        importance=st.sampled_from(IMPORTANCES),
        context=st.sampled_from(CONTEXTS),
        user_id=st.sampled_from(USERS),
        agent_id=st.sampled_from([None, "agent"]),
        session_id=st.sampled_from([None, "s1", "s2"]),
        created_at=st.sampled_from(TIMES),
        updated_at=st.sampled_from(TIMES),
        valid_from=st.sampled_from(TIMES),
        expires_at=st.none() | st.none() | st.none() | st.sampled_from(TIMES),
    )


def _on(
    field: str, values: Sequence[Any], *, ordered: Sequence[Any] = ()
) -> st.SearchStrategy[dict[str, Any]]:
    value = st.sampled_from(values)
    operators: dict[str, st.SearchStrategy[Any]] = {
        "eq": value,
        "ne": value,
        "in": st.lists(value, max_size=3),
    }
    if ordered:
        operators |= dict.fromkeys(COMPARISONS, st.sampled_from(ordered))
    whole = st.fixed_dictionaries({}, optional=operators).filter(bool)
    return (value | whole).map(lambda condition: {field: condition})


def conditions() -> st.SearchStrategy[dict[str, Any]]:
    """Filters of one field: each field, each operator."""
    moments = [time.isoformat() for time in TIMES]
    some_tags = st.lists(st.sampled_from([*TAGS, "none has it"]), max_size=3)
    tagged = st.sampled_from(TAGS) | st.fixed_dictionaries(
        {}, optional={"any": some_tags, "all": some_tags}
    ).filter(bool)
    return st.one_of(
        _on("id", ["id-0", "id-1", "id-2", "no such id"]),
        _on("title", TITLES),
        _on("memory_type", [*TYPES, "NOTE", None]),
        _on("context", CONTEXTS),
        st.sampled_from(["work", "work/x", "/work/", "w", "Work"]).map(
            lambda path: {"context": {"under": path}}
        ),
        _on("user_id", USERS),
        _on("agent_id", [None, "agent"]),
        _on("session_id", [None, "s1", "s2"]),
        _on("importance", IMPORTANCES, ordered=IMPORTANCES),
        *(
            _on(field, moments, ordered=moments)
            for field in ("created_at", "updated_at", "valid_from")
        ),
        *(_on(field, [None, *moments], ordered=moments) for field in ("valid_to", "expires_at")),
        *(_on(f"metadata.{key}", SCALARS, ordered=[0, 0.5, 1, 2**53]) for key in KEYS),
        tagged.map(lambda condition: {"tags": condition}),
    )


def filter_documents() -> st.SearchStrategy[dict[str, Any]]:
    """Filters of every shape, as JSON has them."""
    return st.recursive(
        st.just({}) | conditions() | conditions() | conditions(),
        lambda inner: st.one_of(
            inner.map(lambda document: {"not": document}),
            st.lists(inner, max_size=3).map(lambda documents: {"any": documents}),
            st.lists(inner, max_size=3).map(lambda documents: {"all": documents}),
            st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
        ),
        max_leaves=6,
    )


async def ids_by_words(
    store: MemoryStore, selection: Selection, words: Sequence[str], *, limit: int
) -> list[str]:
    """The ids of what a store finds for words."""
    return [match.id for match in await store.search_words(selection, words, limit=limit)]
