"""Finding memories by their embedding and by their words."""

import logging
from collections.abc import Sequence
from typing import Any

import msgspec
from neo4j import Record
from neo4j.exceptions import Neo4jError

from service.memory.filters import EVERYTHING
from service.memory.model import Embedding, from_microseconds
from service.memory.neo4j_changes import sent
from service.memory.neo4j_client import Neo4jClient
from service.memory.neo4j_errors import can_be_repeated, translated_errors
from service.memory.neo4j_filters import (
    Predicate,
    searchable_predicate,
    selection_predicate,
)
from service.memory.neo4j_rows import tenant_word
from service.memory.neo4j_schema import EMBEDDING_INDEX, WORDS_INDEX, Server
from service.memory.store import SIMILARITY_DECIMALS, WORD_CANDIDATES, Match, Selection
from service.memory.words import Candidate, WordMatch, rank_by_words

logger = logging.getLogger(__name__)

# Up to so many selected memories are searched one after the other, which is exact and takes some
# 40 ms for 1,000 of 768 dimensions; a tenant of this size always is.
EXACT_MEMORIES = 1_000

# The index finds more of the nearest the more it is asked for: of 10 in 100,000 it misses one or
# two when asked for 10, and none when asked for 100.
LEAST_ASKED = 100
ASKED_FOR_EACH = 5

# How much more is asked for where the filter left nothing, and up to when.
GROWTH = 8
MOST_ASKED = 4_000

# The database's own measure is (1 + cosine) / 2.
_SIMILARITY = (
    f"round(2 * vector.similarity.cosine(m.embedding, $embedding) - 1, {SIMILARITY_DECIMALS})"
)

_RANKED = f"""
WITH m, {_SIMILARITY} AS similarity
ORDER BY similarity DESC, m.created_at DESC, m.id
"""

_RESULTS = "RETURN m.id AS id, similarity"


async def search_embedding(
    client: Neo4jClient,
    server: Server,
    selection: Selection,
    embedding: Embedding,
    *,
    limit: int,
) -> list[Match]:
    """The selected memories nearest to the embedding, in order: min(limit, selected)."""
    if limit <= 0:
        return []
    if await _is_large(client, server, selection):
        asked = max(LEAST_ASKED, ASKED_FOR_EACH * limit)
        while asked <= MOST_ASKED:
            found = await _search_index(client, server, selection, embedding, asked)
            if found is None or _is_tied(found, limit):
                break
            if matches := _surely_nearest(found, limit):
                return matches
            selected = sum(row["selected"] for row in found)
            needed = 2 * asked * limit // selected if selected else GROWTH * asked
            asked = max(2 * asked, needed)
    predicate = selection_predicate(selection)
    rows = await client.run(
        f"MATCH (m:Memory) WHERE {predicate.text} {_RANKED} LIMIT $limit {_RESULTS}",
        **predicate.parameters,
        embedding=sent(embedding, vectors=server.vectors),
        limit=limit,
    )
    return [Match(row["id"], row["similarity"]) for row in rows]


async def search_words(
    client: Neo4jClient, selection: Selection, words: Sequence[str], *, limit: int
) -> list[WordMatch]:
    """Selected memories that have any of the words, the most relevant first."""
    if not words or limit <= 0:
        return []
    predicate = selection_predicate(selection)
    any_word = " OR ".join(f'"{word}"' for word in words)
    rows = await client.run(
        f"CALL db.index.fulltext.queryNodes('{WORDS_INDEX}', $query) YIELD node AS m, score "
        f"WHERE {predicate.text} "
        "WITH m, score ORDER BY score DESC, m.created_at DESC, m.id LIMIT $candidates "
        "RETURN m.id AS id, m.created_at AS created_at, m.words AS words",
        **predicate.parameters,
        query=f"+tenant_word:{tenant_word(selection.tenant)} +words:({any_word})",
        candidates=max(limit, WORD_CANDIDATES),
    )
    candidates = [
        Candidate(row["id"], from_microseconds(row["created_at"]), row["words"]) for row in rows
    ]
    return rank_by_words(words, candidates)[:limit]


async def _is_large(client: Neo4jClient, server: Server, selection: Selection) -> bool:
    """Whether there is too much for an exact search, as far as the index cannot tell by itself."""
    if server.filters_in_index and searchable_predicate(selection)[1]:
        selection = msgspec.structs.replace(selection, filter=EVERYTHING)
    predicate = selection_predicate(selection)
    rows = await client.run(
        f"MATCH (m:Memory) WHERE {predicate.text} WITH m LIMIT $most RETURN count(m) AS memories",
        **predicate.parameters,
        most=EXACT_MEMORIES + 1,
    )
    memories: int = rows[0]["memories"]
    return memories > EXACT_MEMORIES


async def _search_index(
    client: Neo4jClient,
    server: Server,
    selection: Selection,
    embedding: Embedding,
    asked: int,
) -> list[Record] | None:
    """What the index gave, nearest first, and which of it is selected; None where it failed."""
    predicate = selection_predicate(selection)
    parameters: dict[str, Any] = dict(predicate.parameters)
    if server.filters_in_index:
        within, _ = searchable_predicate(selection)
        within = _renamed(within)
        parameters |= within.parameters
        statement = (
            f"CYPHER 25 MATCH (m:Memory) SEARCH m IN (VECTOR INDEX {EMBEDDING_INDEX} "
            f"FOR $embedding WHERE {within.text} LIMIT $asked)"
        )
    else:
        statement = (
            f"CALL db.index.vector.queryNodes('{EMBEDDING_INDEX}', $asked, $embedding) "
            "YIELD node AS m"
        )
    statement += f" {_RANKED} {_RESULTS}, coalesce({predicate.text}, false) AS selected"
    with translated_errors():
        try:
            return await client.run_untranslated(
                statement,
                **parameters,
                embedding=sent(embedding, vectors=server.vectors),
                asked=asked,
            )
        except Neo4jError as error:
            # 2026.08 has failed on a search in a tenant whose memories were all deleted, and an
            # index that is being made cannot be asked.
            if can_be_repeated(error):
                raise
            logger.warning("the vector index does not answer; searching without it: %s", error)
            return None


def _is_tied(found: Sequence[Record], limit: int) -> bool:
    """Whether the last to be given is as near as the next: there may be more, which are newer.

    Of many equal embeddings the index finds some, and then others that are farther away.
    """
    similarities = [row["similarity"] for row in found if row["selected"]]
    return len(similarities) > limit and similarities[limit - 1] == similarities[limit]


def _surely_nearest(found: Sequence[Record], limit: int) -> list[Match]:
    """The first selected ones, if what was not found is farther away; nothing if it may be not."""
    matches = [Match(row["id"], row["similarity"]) for row in found if row["selected"]][:limit]
    if len(matches) < limit or matches[-1].similarity <= found[-1]["similarity"]:
        return []
    return matches


def _renamed(predicate: Predicate) -> Predicate:
    """The predicate with other names for its parameters, to be in one statement with another."""
    parameters = {f"within_{name}": value for name, value in predicate.parameters.items()}
    return Predicate(predicate.text.replace("$p", "$within_p"), parameters)
