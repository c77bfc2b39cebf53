"""Finding memories: by meaning, by words, by both, and by the relations of what was found."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from service.embedding.embedder import Embedder
from service.embedding.prompts import prompt_for_input_type
from service.memory.model import Embedding, Memory, Relation
from service.memory.store import SIMILARITY_DECIMALS, MemoryStore, Selection
from service.memory.words import query_words_of

Mode = Literal["hybrid", "vector", "text"]

# Of reciprocal rank fusion, as its authors propose it: Cormack, Clarke and Büttcher, "Reciprocal
# Rank Fusion outperforms Condorcet and individual Rank Learning Methods" (2009).
RANK_CONSTANT = 60

# How many memories each arm of a hybrid search ranks at least.
ARM_LIMIT = 50

MAX_HOPS = 3
MAX_RELATED = 100


@dataclass(frozen=True, slots=True)
class Found:
    """A memory that was found, how near it is, and its rank, from 1, in each arm that found it."""

    memory: Memory
    similarity: float
    rank_by_meaning: int | None
    rank_by_words: int | None
    words: tuple[str, ...]
    """Words of the query, as analysed, for which the memory was found."""


@dataclass(frozen=True, slots=True)
class Related:
    """A memory that relations lead to, and the shortest way there."""

    memory: Memory
    path: tuple[Relation, ...]


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks of the arms and what is made of them."""

    similarities: dict[str, float]
    by_meaning: dict[str, int] = field(default_factory=dict)
    by_words: dict[str, int] = field(default_factory=dict)
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)


async def embed_query(embedder: Embedder, query: str) -> Embedding:
    """The embedding that a query is searched with; what the model does not read is left out.

    Raises:
        EmptyInput: there is no text.
    """
    prompt = prompt_for_input_type(embedder.manifest, "query")
    embedded = await embedder.embed([query], prompt=prompt, truncate=True)
    embedding: Embedding = embedded.embeddings[0]
    return embedding


async def search(
    store: MemoryStore,
    selection: Selection,
    *,
    query: str,
    embedding: Embedding,
    mode: Mode = "hybrid",
    limit: int = 10,
    min_similarity: float | None = None,
) -> list[Found]:
    """The selected memories that answer a query best: min(limit, matching) of them.

    `vector` orders by similarity and finds every memory, `text` by BM25 and finds those that have a
    word of the query. `hybrid` finds what either finds, and adds up the reciprocals of the ranks,
    of which that by words counts as the square of the share of the query's words that a memory has:
    one word in common with a question says little, all of them say as much as the meaning does.
    `min_similarity` leaves out what is less near, in every mode.
    """
    arm_limit = limit if mode == "vector" else max(limit, ARM_LIMIT)
    words = query_words_of(query)
    ranks = Ranks({})
    if mode != "text":
        matches = await store.search_embedding(selection, embedding, limit=arm_limit)
        for rank, match in enumerate(matches, 1):
            ranks.by_meaning[match.id] = rank
            ranks.similarities[match.id] = match.similarity
    if mode != "vector":
        word_matches = await store.search_words(selection, words, limit=arm_limit)
        for rank, word_match in enumerate(word_matches, 1):
            ranks.by_words[word_match.id] = rank
            ranks.words[word_match.id] = word_match.words
        await _add_similarities(store, selection.tenant, embedding, ranks)
    ordered = _fuse(ranks, len(words)) if mode == "hybrid" else [*ranks.by_meaning, *ranks.by_words]
    if min_similarity is not None:
        ordered = [id for id in ordered if ranks.similarities[id] >= min_similarity]
    memories = await store.get(selection, ordered[:limit])
    return [
        Found(
            memory=memory,
            similarity=ranks.similarities[memory.id],
            rank_by_meaning=ranks.by_meaning.get(memory.id),
            rank_by_words=ranks.by_words.get(memory.id),
            words=ranks.words.get(memory.id, ()),
        )
        for memory in memories
        if memory is not None  # deleted since it was found
    ]


async def find_related(
    store: MemoryStore,
    selection: Selection,
    ids: Sequence[str],
    *,
    hops: int,
    relation_types: Sequence[str] | None = None,
    limit: int = MAX_RELATED,
) -> list[Related]:
    """Selected memories that relations connect with these, in either direction, nearest first.

    Every memory on the way is selected, too. Of equally short ways the one from the earlier of
    `ids` counts, then the stronger last relation, then the first by id.
    """
    paths: dict[str, tuple[Relation, ...]] = dict.fromkeys(ids, ())
    reached = list(dict.fromkeys(ids))
    found: list[str] = []
    for _ in range(hops):
        if not reached or len(found) >= limit:
            break
        relations = await store.relations(selection, reached, relation_types=relation_types)
        position = {id: index for index, id in enumerate(reached)}
        ways = sorted(
            (
                position[near],
                -relation.weight,
                far,
                relation.relation_type,
                relation.source,
                relation,
            )
            for relation in relations
            for near, far in (
                (relation.source, relation.target),
                (relation.target, relation.source),
            )
            if near in position and far not in paths
        )
        starts, reached = reached, []
        for start, _, far, _, _, relation in ways:
            if far not in paths:
                paths[far] = (*paths[starts[start]], relation)
                reached.append(far)
        found += reached
    memories = await store.get(selection, found[:limit])
    return [Related(memory, paths[memory.id]) for memory in memories if memory is not None]


async def _add_similarities(
    store: MemoryStore, tenant: str, embedding: Embedding, ranks: Ranks
) -> None:
    missing = [id for id in ranks.by_words if id not in ranks.similarities]
    if missing:
        embeddings = await store.embeddings(tenant, missing)  # (missing, dimensions)
        similarities = np.round(embeddings.astype(np.float64) @ embedding, SIMILARITY_DECIMALS)
        ranks.similarities.update(zip(missing, similarities.tolist(), strict=True))


def _fuse(ranks: Ranks, query_words: int) -> list[str]:
    def merit(id: str) -> float:
        by_meaning, by_words = ranks.by_meaning.get(id), ranks.by_words.get(id)
        share = len(ranks.words.get(id, ())) / max(1, query_words)
        return (1 / (RANK_CONSTANT + by_meaning) if by_meaning else 0.0) + (
            share**2 / (RANK_CONSTANT + by_words) if by_words else 0.0
        )

    ids = dict.fromkeys((*ranks.by_meaning, *ranks.by_words))
    return sorted(ids, key=lambda id: (-round(merit(id), 12), -ranks.similarities[id], id))
