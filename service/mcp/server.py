"""The tools as a server of the official SDK, which speaks the protocol.

What the tools need takes longer to import than a client should wait for an answer to `initialize`:
it is imported in a thread when it is asked for first.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import mcp_types as types
import msgspec
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from service import __version__
from service.errors import ServiceError
from service.mcp.tool import Access, Tool, schema_of, structured

if TYPE_CHECKING:
    from service.memory.memories import Memories

KNOWLEDGE_GRAPH_URI = "memory://knowledge-graph"

INSTRUCTIONS = (
    "A memory that stays between conversations. recall before you answer what may depend on what "
    "was said or done before; remember what will matter later; supersede what has changed. "
    "create_entities, create_relations, add_observations and search_nodes keep the same memories "
    "as a graph of named things."
)

Context = ServerRequestContext[Any, Any]

# Gives the memories and the tenant of a request; raises a ServiceError where there are none, or
# where its caller may not do what needs this access.
Admit = Callable[[Context, Access], Awaitable[tuple["Memories", str]]]


def create_server(admit: Admit) -> Server[Any]:
    """A server of all tools, for requests that `admit` gives memories to."""

    async def list_tools(
        context: Context, parameters: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        tools = await _tools()
        return types.ListToolsResult(tools=[_described(tool) for tool in tools.values()])

    async def call_tool(
        context: Context, parameters: types.CallToolRequestParams
    ) -> types.CallToolResult:
        tool = (await _tools()).get(parameters.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"there is no tool {parameters.name[:100]!r}")
        try:
            asked = msgspec.convert(parameters.arguments or {}, tool.asks)
            memories, tenant = await admit(context, tool.access)
            answer = await tool.run(memories, tenant, asked)
        except (ServiceError, msgspec.ValidationError) as error:
            return types.CallToolResult(content=[_text(str(error))], is_error=True)
        shown = tool.text(answer)
        return types.CallToolResult(
            content=[_text(shown if isinstance(shown, str) else _json(shown))],
            structured_content=structured(answer),
        )

    async def list_resources(
        context: Context, parameters: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        graph = types.Resource(
            name="knowledge-graph",
            title="Knowledge Graph",
            uri=KNOWLEDGE_GRAPH_URI,
            description="The full knowledge graph with all entities and relations",
            mime_type="application/json",
        )
        return types.ListResourcesResult(resources=[graph])

    async def read_resource(
        context: Context, parameters: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        uri = str(parameters.uri)
        if uri != KNOWLEDGE_GRAPH_URI:
            raise MCPError(types.INVALID_PARAMS, f"expected {KNOWLEDGE_GRAPH_URI}, got {uri[:200]}")
        tool = (await _tools())["read_graph"]
        try:
            memories, tenant = await admit(context, tool.access)
            graph = await tool.run(memories, tenant, tool.asks())
        except ServiceError as error:
            raise MCPError(types.INTERNAL_ERROR, str(error)) from None
        contents = types.TextResourceContents(
            uri=uri, mime_type="application/json", text=_json(graph)
        )
        return types.ReadResourceResult(contents=[contents])

    return Server(
        "ai-memory-service",
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_read_resource=read_resource,
    )


async def _tools() -> Mapping[str, Tool]:
    def imported() -> Mapping[str, Tool]:
        from service.mcp.tools import TOOLS

        return TOOLS

    return await asyncio.to_thread(imported)


def _described(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=schema_of(tool.asks),
        output_schema=schema_of(tool.answers),
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.access == "read",
            destructive_hint=tool.destructive,
            idempotent_hint=tool.idempotent or tool.access == "read",
            open_world_hint=False,
        ),
    )


def _json(shown: Any) -> str:
    plain = structured(shown) if isinstance(shown, msgspec.Struct) else shown
    return msgspec.json.encode(plain).decode()


def _text(text: str) -> types.TextContent:
    return types.TextContent(type="text", text=text)
