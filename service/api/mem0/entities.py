"""mem0's entities: the users, agents, apps and runs that memories are of."""

from typing import Any

from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from service.api.mem0.answers import ENTITY_EXAMPLE, Done, Entities, Entity, Pong, answers
from service.api.mem0.filters import APP_ID, our_filter
from service.api.mem0.requests import FIELD_OF, EntityType
from service.memory.filters import EVERYTHING, parse_filter
from service.memory.memories import Memories
from service.memory.model import Memory
from service.memory.store import Order

PAGE = 1_000


@get(
    "/mem0/v1/ping",
    summary="Is the service there",
    tags=["mem0"],
    responses=answers(
        Pong,
        "It is.",
        {
            "status": "ok",
            "org_id": "default",
            "project_id": "default",
            "user_email": None,
        },
    ),
)
async def ping(tenant: NamedDependency[str]) -> Pong:
    """What the client asks for when it is made; it wants a project, which is the tenant here."""
    return Pong(org_id=tenant, project_id=tenant)


@get(
    ["/mem0/v1/entities", "/mem0/entities"],
    summary="List users, agents, apps and runs",
    tags=["mem0"],
    responses=answers(
        Entities,
        "All of them.",
        {
            "count": 1,
            "next": None,
            "previous": None,
            "results": [ENTITY_EXAMPLE],
        },
    ),
)
async def list_entities(
    memories: NamedDependency[Memories], tenant: NamedDependency[str]
) -> Entities:
    """Every user, agent, app and run that has memories now."""
    entities: dict[tuple[EntityType, str], Entity] = {}
    selection = memories.select(tenant)
    page = await memories.page(selection, order=Order(), after=None, limit=PAGE)
    while True:
        for memory in page.memories:
            _count(memory, entities)
        if page.next is None:
            break
        page = await memories.page(selection, order=Order(), after=page.next, limit=PAGE)
    results = [entities[key] for key in sorted(entities)]
    return Entities(count=len(results), results=results)


@delete(
    ["/mem0/v2/entities/{kind:str}/{name:str}", "/mem0/v1/entities/{kind:str}/{name:str}"],
    status_code=200,
    summary="Delete the memories of a user, an agent, an app or a run",
    tags=["mem0"],
    responses=answers(Done, "They are gone.", {"message": "Entity deleted successfully!"}),
)
async def delete_entity(
    kind: FromPath[EntityType],
    name: FromPath[str],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> Done:
    """Delete all memories of a user, an agent, an app or a run."""
    await memories.delete(tenant, parse_filter(our_filter({FIELD_OF[kind]: name})))
    return Done("Entity deleted successfully!")


@post(
    "/mem0/reset",
    status_code=200,
    summary="Delete all memories",
    tags=["mem0"],
    responses=answers(Done, "They are gone.", {"message": "All memories reset"}),
)
async def reset(memories: NamedDependency[Memories], tenant: NamedDependency[str]) -> Done:
    """Delete all memories of the tenant."""
    await memories.delete(tenant, EVERYTHING)
    return Done("All memories reset")


def _count(memory: Memory, entities: dict[tuple[EntityType, str], Entity]) -> None:
    names: dict[EntityType, Any] = {
        "user": memory.user_id,
        "agent": memory.agent_id,
        "run": memory.session_id,
        "app": memory.metadata.get(APP_ID),
    }
    for kind, name in names.items():
        if not isinstance(name, str):
            continue
        entity = entities.setdefault(
            (kind, name),
            Entity(
                id=name,
                name=name,
                type=kind,
                total_memories=0,
                created_at=memory.created_at,
                updated_at=memory.updated_at,
            ),
        )
        entity.total_memories += 1
        entity.created_at = min(entity.created_at, memory.created_at)
        entity.updated_at = max(entity.updated_at, memory.updated_at)
