"""/memories: remember many texts at once, list memories, and forget many."""

import base64
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg, QueryParameter
from msgspec import Meta

from service.api.json_body import StrictJson
from service.api.memory_schemas import (
    MEMORY_EXAMPLE,
    NEW_EXAMPLE,
    AsOf,
    DeletedCounts,
    FilterQuery,
    IdempotencyKey,
    filter_from_query,
    replay_header,
    request_key,
    time_from_query,
)
from service.api.problems import MEMORY_ERRORS
from service.errors import InvalidFilter, InvalidInput
from service.memory.filters import parse_filter
from service.memory.memories import Kept, Memories
from service.memory.model import Memory, Outcome
from service.memory.new_memory import NewMemory
from service.memory.outcomes import RememberedMemory, refusal, remembered_memory
from service.memory.store import MAX_DRAFTS, Order, OrderField, Position


class NewMemories(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Several memories, kept in one transaction."""

    memories: Annotated[list[NewMemory], Meta(min_length=1, max_length=MAX_DRAFTS)]


class BatchError(msgspec.Struct):
    """Why one of the memories was refused."""

    code: Literal["conflict", "missing_target"]
    detail: str


class BatchResult(msgspec.Struct, kw_only=True):
    """What became of the memory at this place; `memory` is the one that is there now."""

    outcome: Outcome
    memory: RememberedMemory | None
    error: BatchError | None = None


class BatchResults(msgspec.Struct, kw_only=True):
    """What became of each memory, in order, and how often what."""

    results: list[BatchResult]
    counts: dict[Outcome, int]


class MemoryPage(msgspec.Struct, kw_only=True):
    """Some memories in order; `next_cursor` leads to the next ones, null where there are none."""

    memories: list[Memory]
    next_cursor: str | None


class DeleteRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which memories to delete."""

    filter: Annotated[
        dict[str, Any],
        Meta(
            description='A filter. `{"all": []}` stands for everything; `{}` is refused.',
            extra_json_schema={"minProperties": 1},
        ),
    ]
    dry_run: Annotated[bool, Meta(description="Count only.")] = False


@post(
    "/memories/batch",
    dto=StrictJson[NewMemories],
    return_dto=None,
    status_code=200,
    summary="Remember many texts",
    tags=["memories"],
    operation_id="rememberBatch",
    responses={
        200: ResponseSpec(
            BatchResults,
            generate_examples=False,
            description="What became of each.",
            examples=[
                Example(
                    value={
                        "results": [
                            {
                                "outcome": "created",
                                "memory": MEMORY_EXAMPLE | {"duplicate": False, "truncated": False},
                                "error": None,
                            }
                        ],
                        "counts": {"created": 1},
                    }
                )
            ],
        ),
        **MEMORY_ERRORS,
    },
)
async def remember_batch(
    data: Annotated[NewMemories, BodyKwarg(examples=[Example(value={"memories": [NEW_EXAMPLE]})])],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
    idempotency_key: IdempotencyKey = None,
) -> Response[BatchResults]:
    """Keep up to 1,000 texts in one transaction, as if they came one after another.

    A memory that is refused does not hold up the others; a request that is not valid writes
    nothing.
    """
    request = request_key(idempotency_key, "batch", data)
    kept, replayed = await memories.remember(tenant, data.memories, request)
    results = [_batch_result(each) for each in kept]
    counts: dict[Outcome, int] = {}
    for result in results:
        counts[result.outcome] = counts.get(result.outcome, 0) + 1
    return Response(BatchResults(results=results, counts=counts), headers=replay_header(replayed))


@get(
    "/memories",
    summary="List memories",
    tags=["memories"],
    operation_id="listMemories",
    responses={
        200: ResponseSpec(
            MemoryPage,
            generate_examples=False,
            description="A page of memories.",
            examples=[
                Example(value={"memories": [MEMORY_EXAMPLE], "next_cursor": "WyItY3JlYXRlZF9hdCIs"})
            ],
        ),
        **MEMORY_ERRORS,
    },
)
async def list_memories(
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
    given_filter: FilterQuery = None,
    order: Annotated[
        Literal[
            "created_at", "-created_at", "updated_at", "-updated_at", "importance", "-importance"
        ],
        QueryParameter(description="The field to sort by; with a minus the highest come first."),
    ] = "-created_at",
    cursor: Annotated[
        str | None,
        QueryParameter(
            max_length=1_024,
            description="`next_cursor` of the page before.",
            schema_extra={"pattern": "^[A-Za-z0-9_-]*$"},
        ),
    ] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 50,
    as_of: AsOf = None,
    include_superseded: Annotated[
        bool, QueryParameter(description="Also those that are not valid any more, or not yet.")
    ] = False,
) -> MemoryPage:
    """Memories in order, page by page; stable while others write."""
    chosen = Order(_order_field(order), order.startswith("-"))
    selection = memories.select(
        tenant,
        filter_from_query(given_filter),
        as_of=time_from_query(as_of),
        ever=include_superseded,
    )
    after = _position(cursor, order) if cursor else None
    page = await memories.page(selection, order=chosen, after=after, limit=limit)
    return MemoryPage(
        memories=page.memories, next_cursor=_cursor(page.next, order) if page.next else None
    )


@post(
    "/memories/delete",
    dto=StrictJson[DeleteRequest],
    return_dto=None,
    status_code=200,
    summary="Forget many memories",
    tags=["memories"],
    operation_id="deleteMemories",
    responses={
        200: ResponseSpec(
            DeletedCounts,
            generate_examples=False,
            description="How much is gone, or would be.",
            examples=[Example(value={"memories": 12, "relations": 3, "dry_run": True})],
        ),
        **MEMORY_ERRORS,
    },
)
async def delete_memories(
    data: Annotated[
        DeleteRequest,
        BodyKwarg(examples=[Example(value={"filter": {"tags": "draft"}, "dry_run": True})]),
    ],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> DeletedCounts:
    """Delete every memory that passes a filter, history included."""
    if not data.filter:
        raise InvalidFilter('an empty filter would delete everything; {"all": []} says so')
    deleted = await memories.delete(tenant, parse_filter(data.filter), dry_run=data.dry_run)
    return DeletedCounts(
        memories=deleted.memories, relations=deleted.relations, dry_run=data.dry_run
    )


def _batch_result(kept: Kept) -> BatchResult:
    error = None
    if refused := refusal(kept.remembered):
        conflict = kept.remembered.outcome == "conflict"
        error = BatchError("conflict" if conflict else "missing_target", str(refused))
    return BatchResult(outcome=kept.remembered.outcome, memory=remembered_memory(kept), error=error)


def _order_field(order: str) -> OrderField:
    field: OrderField = msgspec.convert(order.removeprefix("-"), OrderField)
    return field


def _cursor(position: Position, order: str) -> str:
    fields = msgspec.json.encode((order, position.value, position.id))
    return base64.urlsafe_b64encode(fields).decode().rstrip("=")


def _position(cursor: str, order: str) -> Position:
    try:
        fields = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        of_order, value, id = msgspec.json.decode(fields, type=tuple[str, int | float, str])
    except (ValueError, msgspec.MsgspecError):
        raise InvalidInput(
            "cursor: expected next_cursor of a page, as it was given", parameter="cursor"
        ) from None
    if of_order != order:
        raise InvalidInput(
            f"cursor: it is of a list with order={of_order}, and this one has order={order}",
            parameter="cursor",
        )
    return Position(value, id)
