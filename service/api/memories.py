"""/memories: remember a text, and read, change, supersede and forget one memory."""

from typing import Annotated

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg, FromPath

from service.api.json_body import StrictJson
from service.api.memory_schemas import (
    MEMORY_EXAMPLE,
    NEW_EXAMPLE,
    AsOf,
    DeletedCounts,
    IdempotencyKey,
    replay_header,
    request_key,
    time_from_query,
)
from service.api.problems import MEMORY_ERRORS
from service.memory.memories import Kept, Memories
from service.memory.model import Memory
from service.memory.new_memory import Changes, NewMemory, Successor
from service.memory.outcomes import RememberedMemory, refusal, remembered_memory


class HistoryAnswer(msgspec.Struct):
    """The memories that superseded one another, oldest first."""

    memories: list[Memory]


@post(
    "/memories",
    dto=StrictJson[NewMemory],
    return_dto=None,
    summary="Remember a text",
    tags=["memories"],
    operation_id="remember",
    responses={
        200: ResponseSpec(
            RememberedMemory,
            generate_examples=False,
            description="It was there already, or it took the place of what was under its id.",
        ),
        201: ResponseSpec(
            RememberedMemory,
            generate_examples=False,
            description="It is kept; `Location` says where.",
            examples=[Example(value=MEMORY_EXAMPLE | {"duplicate": False, "truncated": False})],
        ),
        **MEMORY_ERRORS,
    },
)
async def remember(
    data: Annotated[NewMemory, BodyKwarg(examples=[Example(value=NEW_EXAMPLE)])],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
    idempotency_key: IdempotencyKey = None,
) -> Response[RememberedMemory]:
    """Keep a text with its embedding, durably, before the answer.

    Exactly the same content in the same scope (`user_id`, `agent_id`, `session_id`) is not kept
    twice: the answer is the memory that is there, with `duplicate: true`. With an `id` of your own
    the memory is found by that instead: the same content again changes nothing (200), other content
    is a conflict (409), or takes its place with `on_conflict: "replace"`.
    """
    request = request_key(idempotency_key, "remember", data)
    (kept,), replayed = await memories.remember(tenant, [data], request)
    return _answer(kept, replayed)


@get(
    "/memories/{id:str}",
    summary="Read a memory",
    tags=["memories"],
    operation_id="getMemory",
    responses={
        200: ResponseSpec(
            Memory,
            generate_examples=False,
            description="The memory, superseded or not.",
            examples=[Example(value=MEMORY_EXAMPLE)],
        ),
        **MEMORY_ERRORS,
    },
)
async def read_memory(
    id: FromPath[str],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
    as_of: AsOf = None,
) -> Memory:
    """One memory by its id."""
    return await memories.get(tenant, id, time_from_query(as_of))


@patch(
    "/memories/{id:str}",
    dto=StrictJson[Changes],
    return_dto=None,
    summary="Change a memory",
    tags=["memories"],
    operation_id="changeMemory",
    responses={
        200: ResponseSpec(
            Memory,
            generate_examples=False,
            description="The memory as it is now.",
            examples=[Example(value=MEMORY_EXAMPLE | {"importance": 0.9, "version": 2})],
        ),
        **MEMORY_ERRORS,
    },
)
async def change_memory(
    id: FromPath[str],
    data: Annotated[Changes, BodyKwarg(examples=[Example(value={"importance": 0.9})])],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> Memory:
    """Correct a memory in place. To keep what it said before, supersede it instead."""
    return await memories.change(tenant, id, data)


@delete(
    "/memories/{id:str}",
    status_code=200,
    summary="Forget a memory",
    tags=["memories"],
    operation_id="forget",
    responses={
        200: ResponseSpec(
            DeletedCounts,
            generate_examples=False,
            description="It is gone, with its relations.",
            examples=[Example(value={"memories": 1, "relations": 2, "dry_run": False})],
        ),
        **MEMORY_ERRORS,
    },
)
async def forget(
    id: FromPath[str], memories: NamedDependency[Memories], tenant: NamedDependency[str]
) -> DeletedCounts:
    """Delete a memory. What it superseded is valid again, unless something superseded it, too."""
    deleted = await memories.forget(tenant, id)
    return DeletedCounts(memories=deleted.memories, relations=deleted.relations)


@post(
    "/memories/{id:str}/supersede",
    dto=StrictJson[Successor],
    return_dto=None,
    summary="Supersede a memory",
    tags=["memories"],
    operation_id="supersede",
    responses={
        201: ResponseSpec(
            RememberedMemory,
            generate_examples=False,
            description="The new memory; the old one is closed and stays as history.",
            examples=[
                Example(
                    value=MEMORY_EXAMPLE
                    | {
                        "id": "019ab1d0-11aa-7c00-8b3d-90e1f2a3b4c5",
                        "content": "Ada drinks coffee now.",
                        "supersedes": MEMORY_EXAMPLE["id"],
                        "duplicate": False,
                        "truncated": False,
                    }
                )
            ],
        ),
        **MEMORY_ERRORS,
    },
)
async def supersede(
    id: FromPath[str],
    data: Annotated[
        Successor, BodyKwarg(examples=[Example(value={"content": "Ada drinks coffee now."})])
    ],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
    idempotency_key: IdempotencyKey = None,
) -> Response[RememberedMemory]:
    """Keep what is true now in the place of what was: fields that are not given are taken over.

    The old memory gets `valid_to`, is not found any more, and is still there in the history and
    with `as_of`.
    """
    request = request_key(idempotency_key, f"supersede {id}", data)
    kept, replayed = await memories.supersede(tenant, id, data, request)
    return _answer(kept, replayed)


@get(
    "/memories/{id:str}/history",
    summary="The history of a memory",
    tags=["memories"],
    operation_id="history",
    responses={
        200: ResponseSpec(
            HistoryAnswer,
            generate_examples=False,
            description="All that superseded one another, oldest first.",
            examples=[Example(value={"memories": [MEMORY_EXAMPLE]})],
        ),
        **MEMORY_ERRORS,
    },
)
async def read_history(
    id: FromPath[str],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
    as_of: AsOf = None,
) -> HistoryAnswer:
    """What a memory said before, and what it says now; with `as_of`, what was known of it then."""
    return HistoryAnswer(await memories.history(tenant, id, time_from_query(as_of)))


def _answer(kept: Kept, replayed: bool) -> Response[RememberedMemory]:
    if error := refusal(kept.remembered):
        raise error
    memory = remembered_memory(kept)
    assert memory is not None
    created = kept.remembered.outcome == "created"
    headers = {"Location": f"/memories/{memory.id}"} if created else {}
    return Response(
        memory, status_code=201 if created else 200, headers=headers | replay_header(replayed)
    )
