"""/relations, and the memories that relations lead to."""

from typing import Annotated

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg, FromPath, FromQuery, QueryParameter

from service.api.json_body import StrictJson
from service.api.memory_schemas import MEMORY_EXAMPLE, AsOf, time_from_query
from service.api.problems import MEMORY_ERRORS
from service.memory.memories import Memories
from service.memory.model import Relation
from service.memory.new_memory import RelateRequest
from service.memory.questions import RelatedMemory, related_memory
from service.memory.search import MAX_HOPS, MAX_RELATED, find_related

RELATION_EXAMPLE = {
    "source": "019ab1c2-7d3e-7f00-9a4b-2f6c1d8e5a70",
    "target": "019ab1d0-11aa-7c00-8b3d-90e1f2a3b4c5",
    "relation_type": "SUPPORTS",
    "weight": 0.8,
}


class DeletedRelations(msgspec.Struct):
    """How many relations were deleted."""

    relations: int


class RelatedMemories(msgspec.Struct):
    """What relations lead to, nearest first."""

    related: list[RelatedMemory]


@post(
    "/relations",
    dto=StrictJson[RelateRequest],
    return_dto=None,
    summary="Relate two memories",
    tags=["relations"],
    operation_id="relate",
    responses={
        201: ResponseSpec(
            Relation,
            generate_examples=False,
            description="The relation is there.",
            examples=[Example(value=RELATION_EXAMPLE | {"created_at": "2026-11-22T18:00:00Z"})],
        ),
        **MEMORY_ERRORS,
    },
)
async def relate(
    data: Annotated[RelateRequest, BodyKwarg(examples=[Example(value=RELATION_EXAMPLE)])],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> Response[Relation]:
    """Make a relation from one memory to another; one that is there gets the new weight."""
    (relation,) = await memories.relate(tenant, [data])
    return Response(relation, status_code=201)


@delete(
    "/relations",
    status_code=200,
    summary="Delete relations",
    tags=["relations"],
    operation_id="unrelate",
    responses={
        200: ResponseSpec(
            DeletedRelations,
            generate_examples=False,
            description="They are gone.",
            examples=[Example(value={"relations": 1})],
        ),
        **MEMORY_ERRORS,
    },
)
async def unrelate(
    source: FromQuery[str],
    target: FromQuery[str],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
    relation_type: Annotated[
        str | None, QueryParameter(description="Not set: relations of every type.")
    ] = None,
) -> DeletedRelations:
    """Delete the relations from one memory to another."""
    return DeletedRelations(await memories.unrelate(tenant, source, target, relation_type))


@get(
    "/memories/{id:str}/related",
    summary="Follow relations",
    tags=["relations"],
    operation_id="related",
    responses={
        200: ResponseSpec(
            RelatedMemories,
            generate_examples=False,
            description="The memories that relations lead to.",
            examples=[
                Example(
                    value={
                        "related": [
                            {
                                "memory": MEMORY_EXAMPLE,
                                "hops": 1,
                                "path": [RELATION_EXAMPLE | {"created_at": "2026-11-22T18:00:00Z"}],
                            }
                        ]
                    }
                )
            ],
        ),
        **MEMORY_ERRORS,
    },
)
async def related(
    id: FromPath[str],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
    hops: Annotated[int, QueryParameter(ge=1, le=MAX_HOPS)] = 1,
    relation_type: Annotated[
        list[str] | None, QueryParameter(description="Follow only this; may be repeated.")
    ] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_RELATED)] = MAX_RELATED,
    as_of: AsOf = None,
) -> RelatedMemories:
    """The memories that relations connect with this one, in either direction, nearest first."""
    moment = time_from_query(as_of)
    await memories.get(tenant, id, moment)
    found = await find_related(
        memories.store,
        memories.select(tenant, as_of=moment),
        [id],
        hops=hops,
        relation_types=relation_type,
        limit=limit,
    )
    return RelatedMemories([related_memory(each) for each in found])
