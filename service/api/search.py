"""POST /memories/search and POST /recall."""

from typing import Annotated

from litestar import post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg

from service.api.json_body import StrictJson
from service.api.memory_schemas import MEMORY_EXAMPLE
from service.api.problems import MEMORY_ERRORS
from service.memory.memories import Memories
from service.memory.questions import (
    RecallRequest,
    SearchRequest,
    SearchResults,
    answer_recall,
    answer_search,
)
from service.memory.recall import Recalled

FILTER_EXAMPLE = {"user_id": "ada", "tags": {"any": ["drinks", "food"]}, "importance": {"gte": 0.5}}


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
    return await answer_search(memories, tenant, data)


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
            Recalled,
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
) -> Recalled:
    """What is remembered of a matter, as one text within a budget of tokens.

    What says the same is there once. Where nothing is relevant the context is empty: what counts as
    relevant was measured for this model (`relevance` in `/info`).
    """
    return await answer_recall(memories, tenant, data)
