"""All tools, by name."""

from service.mcp.graph_tools import GRAPH_TOOLS
from service.mcp.memory_tools import MEMORY_TOOLS

TOOLS = {tool.name: tool for tool in (*MEMORY_TOOLS, *GRAPH_TOOLS)}
