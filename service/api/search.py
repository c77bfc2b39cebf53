"""POST /memories/search and POST /recall."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg
from msgspec import UNSET, Meta, UnsetType

from service.api.json_body import StrictJson
from service.api.memory_schemas import MEMORY_EXAMPLE, time_from_query
from service.api.problems import MEMORY_ERRORS
from service.memory.filters import EVERYTHING, Filter, parse_filter
from service.memory.memories import Memories
from service.memory.model import Memory, Relation
from service.memory.new_memory import RelationType
from service.memory.recall import recall
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
    datetime | None, Meta(description="Search what was valid at this time. Not set: now.")
]

FILTER_EXAMPLE = {"user_id": "ada", "tags": {"any": ["drinks", "food"]}, "importance": {"gte": 0.5}}


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

    rank_by_meaning: int | None
    rank_by_words: int | None
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


class CitationAnswer(msgspec.Struct, kw_only=True):
    """A memory that the context has."""

    id: str
    similarity: float
    snippet: str


class RecallAnswer(msgspec.Struct, kw_only=True):
    """A text to put before a language model; empty where nothing relevant is remembered."""

    context: str
    citations: list[CitationAnswer]
    tokens: int


@post(
    "/memories/search",
    dto=StrictJson[SearchRequest],
    return_dto=None,
    status_code=200,
    summary="Search memories",
    tags=["search"],
    operation_id="search",
    responses={
        200: ResponseSpec(
            SearchResults,
            generate_examples=False,
            description="min(limit, matching) memories.",
            examples=[
                Example(
                    value={
                        "results": [
                            {
                                "memory": MEMORY_EXAMPLE,
                                "similarity": 0.618975,
                                "explanation": {
                                    "rank_by_meaning": 1,
                                    "rank_by_words": 2,
                                    "words": ["tea"],
                                    "reason": "near in meaning: rank 1; has words of the "
                                    "query: rank 2",
                                },
                            }
                        ]
                    }
                )
            ],
        ),
        **MEMORY_ERRORS,
    },
)
async def search_memories(
    data: Annotated[
        SearchRequest,
        BodyKwarg(
            examples=[
                Example(
                    value={
                        "query": "What does Ada like to drink?",
                        "limit": 5,
                        "filter": FILTER_EXAMPLE,
                        "explain": True,
                    }
                )
            ]
        ),
    ],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> SearchResults:
    """The memories that answer a query best, whatever the filter: ask for 10, get 10 if there are.

    With `hops`, `related` brings the memories that relations lead to from the results.
    """
    selection = memories.select(
        tenant, parsed_filter(data.filter), as_of=time_from_query(data.as_of)
    )
    embedding = await embed_query(memories.embedder, data.query)
    found = await search(
        memories.store,
        selection,
        query=data.query,
        embedding=embedding,
        mode=data.mode,
        limit=data.limit,
        min_similarity=data.min_similarity,
    )
    answer = SearchResults(results=[_result(hit, data.explain) for hit in found])
    if data.hops:
        related = await find_related(
            memories.store,
            selection,
            [hit.memory.id for hit in found],
            hops=data.hops,
            relation_types=data.relation_types,
        )
        answer.related = [related_memory(each) for each in related]
    return answer


@post(
    "/recall",
    dto=StrictJson[RecallRequest],
    return_dto=None,
    status_code=200,
    summary="Recall what is relevant",
    tags=["search"],
    operation_id="recall",
    responses={
        200: ResponseSpec(
            RecallAnswer,
            generate_examples=False,
            description="The context, and the memories it was made of.",
            examples=[
                Example(
                    value={
                        "context": "- (2026-11-22) Ada prefers tea to coffee, without milk.",
                        "citations": [
                            {
                                "id": MEMORY_EXAMPLE["id"],
                                "similarity": 0.618975,
                                "snippet": "Ada prefers tea to coffee, without milk.",
                            }
                        ],
                        "tokens": 19,
                    }
                )
            ],
        ),
        **MEMORY_ERRORS,
    },
)
async def recall_context(
    data: Annotated[
        RecallRequest,
        BodyKwarg(
            examples=[Example(value={"query": "What should I offer Ada?", "max_tokens": 256})]
        ),
    ],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> RecallAnswer:
    """What is remembered of a matter, as one text within a budget of tokens.

    What says the same is there once. Where nothing is relevant the context is empty: what counts as
    relevant was measured for this model (`relevance` in `/info`).
    """
    selection = memories.select(
        tenant, parsed_filter(data.filter), as_of=time_from_query(data.as_of)
    )
    recalled = await recall(
        memories.store,
        memories.embedder,
        selection,
        query=data.query,
        embedding=await embed_query(memories.embedder, data.query),
        max_tokens=data.max_tokens,
        cutoff=memories.relevance_cutoff if data.min_similarity is None else data.min_similarity,
    )
    return RecallAnswer(
        context=recalled.context,
        citations=[
            CitationAnswer(id=cited.id, similarity=cited.similarity, snippet=cited.snippet)
            for cited in recalled.citations
        ],
        tokens=recalled.tokens,
    )


def parsed_filter(given: dict[str, Any] | None) -> Filter:
    """The filter of a request.

    Raises:
        InvalidFilter: it is not one.
    """
    return EVERYTHING if given is None else parse_filter(given)


def related_memory(related: Related) -> RelatedMemory:
    """A related memory as the routes answer it."""
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
