"""What clients ask of memories, and the answers: searches, and recall."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.memory.filters import EVERYTHING, Filter, parse_filter
from service.memory.memories import Memories
from service.memory.model import Memory, Relation, Time
from service.memory.new_memory import RelationType, optional_in_utc
from service.memory.recall import Recalled, recall
from service.memory.search import MAX_HOPS, Found, Mode, Related, embed_query, find_related, search

Query = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=65_536,
        description="What to look for, in your own words. Nothing in it is query syntax.",
    ),
]
GivenFilter = Annotated[
    dict[str, Any] | None,
    Meta(
        description="Fields with values they must equal, or with operators: eq, ne, in, lt, lte, "
        "gt, gte; tags: any, all; context: under. Combine with all, any and not. Fields: id, "
        "title, memory_type, context, user_id, agent_id, session_id, importance, created_at, "
        "updated_at, valid_from, valid_to, expires_at, tags, metadata.<key>."
    ),
]
GivenAsOf = Annotated[
    Time | None, Meta(description="Search what was valid at this time. Not set: now.")
]


class SearchRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to find."""

    query: Query
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 10
    filter: GivenFilter = None
    mode: Annotated[
        Mode,
        Meta(
            description="`vector` finds by meaning, `text` by words (BM25), and `hybrid` what "
            "either of them finds, by reciprocal rank fusion."
        ),
    ] = "hybrid"
    min_similarity: (
        Annotated[float, Meta(ge=-1, le=1, description="The least cosine of a result.")] | None
    ) = None
    hops: Annotated[
        int,
        Meta(ge=0, le=MAX_HOPS, description="Bring what relations lead to in so many steps, too."),
    ] = 0
    relation_types: (
        Annotated[
            list[RelationType], Meta(max_length=64, description="Follow only these relations.")
        ]
        | None
    ) = None
    as_of: GivenAsOf = None
    explain: Annotated[bool, Meta(description="Say why each result is there.")] = False


class Explanation(msgspec.Struct, kw_only=True):
    """Why a result is there: its rank, from 1, in each arm that found it."""

    rank_by_meaning: int | None = None
    rank_by_words: int | None = None
    words: list[str]
    reason: str


class SearchResult(msgspec.Struct, kw_only=True):
    """A memory, and the cosine of its embedding and the query's."""

    memory: Memory
    similarity: float
    explanation: Explanation | UnsetType = UNSET


class RelatedMemory(msgspec.Struct, kw_only=True):
    """A memory that relations lead to, and the shortest way there."""

    memory: Memory
    hops: int
    path: list[Relation]


class SearchResults(msgspec.Struct, kw_only=True):
    """The results, best first, and what relations lead to from them."""

    results: list[SearchResult]
    related: list[RelatedMemory] | UnsetType = UNSET


class RecallRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What an agent is about to deal with."""

    query: Query
    max_tokens: Annotated[
        int, Meta(ge=1, le=131_072, description="Length of the context for the model's tokenizer.")
    ] = 1_024
    filter: GivenFilter = None
    as_of: GivenAsOf = None
    min_similarity: (
        Annotated[
            float,
            Meta(
                ge=-1,
                le=1,
                description="What counts as relevant. Not set: the model's own cut-off.",
            ),
        ]
        | None
    ) = None


async def answer_search(memories: Memories, tenant: str, asked: SearchRequest) -> SearchResults:
    """The memories that answer a query best, and, with `hops`, what relations lead to from them.

    Raises:
        InvalidInput: the filter is not one, or `as_of` is not within the years 1 to 9999.
    """
    selection = memories.select(
        tenant, parsed_filter(asked.filter), as_of=optional_in_utc(asked.as_of, "as_of")
    )
    found = await search(
        memories.store,
        selection,
        query=asked.query,
        embedding=await embed_query(memories.embedder, asked.query),
        mode=asked.mode,
        limit=asked.limit,
        min_similarity=asked.min_similarity,
    )
    answer = SearchResults(results=[_result(hit, asked.explain) for hit in found])
    if asked.hops:
        related = await find_related(
            memories.store,
            selection,
            [hit.memory.id for hit in found],
            hops=asked.hops,
            relation_types=asked.relation_types,
        )
        answer.related = [related_memory(each) for each in related]
    return answer


async def answer_recall(memories: Memories, tenant: str, asked: RecallRequest) -> Recalled:
    """What is remembered of a matter, as one text; empty where nothing relevant is.

    Raises:
        InvalidInput: the filter is not one, or `as_of` is not within the years 1 to 9999.
    """
    selection = memories.select(
        tenant, parsed_filter(asked.filter), as_of=optional_in_utc(asked.as_of, "as_of")
    )
    return await recall(
        memories.store,
        memories.embedder,
        selection,
        query=asked.query,
        embedding=await embed_query(memories.embedder, asked.query),
        max_tokens=asked.max_tokens,
        cutoff=memories.relevance_cutoff if asked.min_similarity is None else asked.min_similarity,
    )


def parsed_filter(given: dict[str, Any] | None) -> Filter:
    """The filter of a request.

    Raises:
        InvalidFilter: it is not one.
    """
    return EVERYTHING if given is None else parse_filter(given)


def related_memory(related: Related) -> RelatedMemory:
    """A related memory as clients get it."""
    return RelatedMemory(memory=related.memory, hops=len(related.path), path=list(related.path))


def _result(hit: Found, explain: bool) -> SearchResult:
    result = SearchResult(memory=hit.memory, similarity=hit.similarity)
    if explain:
        result.explanation = Explanation(
            rank_by_meaning=hit.rank_by_meaning,
            rank_by_words=hit.rank_by_words,
            words=list(hit.words),
            reason=_reason(hit),
        )
    return result


def _reason(hit: Found) -> str:
    reasons = []
    if hit.rank_by_meaning is not None:
        reasons.append(f"near in meaning: rank {hit.rank_by_meaning}")
    if hit.rank_by_words is not None:
        reasons.append(f"has words of the query: rank {hit.rank_by_words}")
    return "; ".join(reasons)
