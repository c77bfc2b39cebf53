"""Calls of tools, held to what they have to come to."""

from typing import Any

from mcp import Client
from mcp_types import TextContent


async def called(client: Client, tool: str, **arguments: Any) -> Any:
    """The structured answer of a call that has to succeed."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return result.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """Why a call was refused that has to be."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def names_of(graph: Any) -> list[str]:
    """The names of a graph's entities, in order."""
    return [entity["name"] for entity in graph["entities"]]
