"""The tools of MCP's reference memory server, by its names and in its shapes.

As @modelcontextprotocol/server-memory 2026.8.31 has them; descriptions say more where agents need
it.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from service.mcp.tool import Tool
from service.memory import knowledge_graph
from service.memory.entities import Added, Additions, Deletions, Entity, EntityName, Graph, Link
from service.memory.memories import Memories


class Entities(msgspec.Struct):
    """Entities with what is known of them."""

    entities: list[Entity]


class Links(msgspec.Struct):
    """Relations between entities."""

    relations: Annotated[list[Link], Meta(description="Relations, in active voice.")]


class AddRequest(msgspec.Struct):
    """What else is known."""

    observations: list[Additions]


class AddedResults(msgspec.Struct):
    """What was not known before, of each entity."""

    results: list[Added]


class EntityNames(msgspec.Struct, rename="camel"):
    """Which entities to delete."""

    entity_names: list[str]


class DeleteRequest(msgspec.Struct):
    """Which observations to delete."""

    deletions: list[Deletions]


class Nothing(msgspec.Struct):
    """Nothing has to be said."""


class Query(msgspec.Struct):
    """What to look for."""

    query: Annotated[
        str,
        Meta(max_length=65_536, description="Part of a name, type or observation, or a question."),
    ]


class Names(msgspec.Struct):
    """Which entities to read."""

    names: list[EntityName]


class Done(msgspec.Struct):
    """That it is done."""

    success: bool
    message: str


async def _create_entities(memories: Memories, tenant: str, asked: Entities) -> Entities:
    return Entities(await knowledge_graph.create_entities(memories, tenant, asked.entities))


async def _create_relations(memories: Memories, tenant: str, asked: Links) -> Links:
    return Links(await knowledge_graph.create_relations(memories, tenant, asked.relations))


async def _add_observations(memories: Memories, tenant: str, asked: AddRequest) -> AddedResults:
    return AddedResults(
        await knowledge_graph.add_observations(memories, tenant, asked.observations)
    )


async def _delete_entities(memories: Memories, tenant: str, asked: EntityNames) -> Done:
    await knowledge_graph.delete_entities(memories, tenant, asked.entity_names)
    return Done(True, "Entities deleted successfully")


async def _delete_observations(memories: Memories, tenant: str, asked: DeleteRequest) -> Done:
    await knowledge_graph.delete_observations(memories, tenant, asked.deletions)
    return Done(True, "Observations deleted successfully")


async def _delete_relations(memories: Memories, tenant: str, asked: Links) -> Done:
    await knowledge_graph.delete_relations(memories, tenant, asked.relations)
    return Done(True, "Relations deleted successfully")


async def _read_graph(memories: Memories, tenant: str, _: Nothing) -> Graph:
    return await knowledge_graph.read_graph(memories, tenant)


async def _search_nodes(memories: Memories, tenant: str, asked: Query) -> Graph:
    return await knowledge_graph.search_nodes(memories, tenant, asked.query)


async def _open_nodes(memories: Memories, tenant: str, asked: Names) -> Graph:
    return await knowledge_graph.open_nodes(memories, tenant, asked.names)


GRAPH_TOOLS = (
    Tool(
        name="create_entities",
        title="Create Entities",
        description="Create multiple new entities in the knowledge graph. Those that are there "
        "already, by name, stay as they are.",
        asks=Entities,
        answers=Entities,
        run=_create_entities,
        access="write",
        text=lambda answer: answer.entities,
    ),
    Tool(
        name="create_relations",
        title="Create Relations",
        description="Create multiple new relations between entities in the knowledge graph. "
        "Relations should be in active voice. Both entities have to be there.",
        asks=Links,
        answers=Links,
        run=_create_relations,
        access="write",
        text=lambda answer: answer.relations,
    ),
    Tool(
        name="add_observations",
        title="Add Observations",
        description="Add new observations to existing entities in the knowledge graph",
        asks=AddRequest,
        answers=AddedResults,
        run=_add_observations,
        access="write",
        text=lambda answer: answer.results,
    ),
    Tool(
        name="delete_entities",
        title="Delete Entities",
        description="Delete multiple entities and their associated observations and relations "
        "from the knowledge graph",
        asks=EntityNames,
        answers=Done,
        run=_delete_entities,
        access="write",
        destructive=True,
        idempotent=True,
        text=lambda answer: answer.message,
    ),
    Tool(
        name="delete_observations",
        title="Delete Observations",
        description="Delete specific observations from entities in the knowledge graph",
        asks=DeleteRequest,
        answers=Done,
        run=_delete_observations,
        access="write",
        destructive=True,
        idempotent=True,
        text=lambda answer: answer.message,
    ),
    Tool(
        name="delete_relations",
        title="Delete Relations",
        description="Delete multiple relations from the knowledge graph",
        asks=Links,
        answers=Done,
        run=_delete_relations,
        access="write",
        destructive=True,
        idempotent=True,
        text=lambda answer: answer.message,
    ),
    Tool(
        name="read_graph",
        title="Read Graph",
        description="Read the entire knowledge graph. It can be long: search_nodes finds what "
        "matters.",
        asks=Nothing,
        answers=Graph,
        run=_read_graph,
        access="read",
    ),
    Tool(
        name="search_nodes",
        title="Search Nodes",
        description="Search for nodes in the knowledge graph: by part of a name, type or "
        "observation, or by a question, for what is near to it in meaning",
        asks=Query,
        answers=Graph,
        run=_search_nodes,
        access="read",
    ),
    Tool(
        name="open_nodes",
        title="Open Nodes",
        description="Open specific nodes in the knowledge graph by their names",
        asks=Names,
        answers=Graph,
        run=_open_nodes,
        access="read",
    ),
)
