"""What there is: tags, contexts and counts; and forgetting all of a session or a user."""

import msgspec
from litestar import delete, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import FromPath

from service.api.memory_schemas import (
    AsOf,
    DeletedCounts,
    FilterQuery,
    filter_from_query,
    time_from_query,
)
from service.api.problems import MEMORY_ERRORS
from service.memory.filters import TextField, TextIn
from service.memory.memories import Memories
from service.memory.model import Count, Stats

DELETED = {
    200: ResponseSpec(
        DeletedCounts,
        generate_examples=False,
        description="How much is gone.",
        examples=[Example(value={"memories": 12, "relations": 3, "dry_run": False})],
    ),
    **MEMORY_ERRORS,
}


class TagCounts(msgspec.Struct):
    """The tags, the most frequent first."""

    tags: list[Count]


class ContextCounts(msgspec.Struct):
    """The contexts, the most frequent first."""

    contexts: list[Count]


@get(
    "/tags",
    summary="List tags",
    tags=["scopes"],
    operation_id="listTags",
    responses={
        200: ResponseSpec(
            TagCounts,
            generate_examples=False,
            description="Every tag, and how many memories have it.",
            examples=[Example(value={"tags": [{"name": "drinks", "memories": 4}]})],
        ),
        **MEMORY_ERRORS,
    },
)
async def list_tags(
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
    given_filter: FilterQuery = None,
    as_of: AsOf = None,
) -> TagCounts:
    """The tags of the memories that are valid now, or then, and pass the filter."""
    selection = memories.select(
        tenant, filter_from_query(given_filter), as_of=time_from_query(as_of)
    )
    return TagCounts(await memories.store.tags(selection))


@get(
    "/contexts",
    summary="List contexts",
    tags=["scopes"],
    operation_id="listContexts",
    responses={
        200: ResponseSpec(
            ContextCounts,
            generate_examples=False,
            description="Every context, and how many memories are in it.",
            examples=[Example(value={"contexts": [{"name": "home/kitchen", "memories": 4}]})],
        ),
        **MEMORY_ERRORS,
    },
)
async def list_contexts(
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
    given_filter: FilterQuery = None,
    as_of: AsOf = None,
) -> ContextCounts:
    """The contexts of the memories that are valid now, or then, and pass the filter."""
    selection = memories.select(
        tenant, filter_from_query(given_filter), as_of=time_from_query(as_of)
    )
    return ContextCounts(await memories.store.contexts(selection))


@get(
    "/stats",
    summary="Count what is kept",
    tags=["scopes"],
    operation_id="stats",
    responses={
        200: ResponseSpec(
            Stats,
            generate_examples=False,
            description="Counts; `current` are the memories that are valid now.",
            examples=[
                Example(
                    value={
                        "memories": 120,
                        "current": 112,
                        "relations": 31,
                        "tags": 14,
                        "contexts": 6,
                        "users": 2,
                        "agents": 1,
                        "sessions": 9,
                    }
                )
            ],
        ),
        **MEMORY_ERRORS,
    },
)
async def read_stats(memories: NamedDependency[Memories], tenant: NamedDependency[str]) -> Stats:
    """How much is kept."""
    return await memories.store.stats(tenant, now=memories.clock())


@delete(
    "/sessions/{id:str}",
    status_code=200,
    summary="Forget a session",
    tags=["scopes"],
    operation_id="forgetSession",
    responses=DELETED,
)
async def forget_session(
    id: FromPath[str], memories: NamedDependency[Memories], tenant: NamedDependency[str]
) -> DeletedCounts:
    """Delete every memory of a session. What those superseded in others is valid again."""
    return await _forget(memories, tenant, "session_id", id)


@delete(
    "/users/{id:str}",
    status_code=200,
    summary="Forget a user",
    tags=["scopes"],
    operation_id="forgetUser",
    responses=DELETED,
)
async def forget_user(
    id: FromPath[str], memories: NamedDependency[Memories], tenant: NamedDependency[str]
) -> DeletedCounts:
    """Delete every memory of a user, in all sessions, history included."""
    return await _forget(memories, tenant, "user_id", id)


async def _forget(memories: Memories, tenant: str, field: TextField, id: str) -> DeletedCounts:
    deleted = await memories.delete(tenant, TextIn(field, (id,)))
    return DeletedCounts(memories=deleted.memories, relations=deleted.relations)
