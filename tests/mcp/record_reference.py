"""Records what MCP's reference memory server answers to a few calls, for ours to be held to.

npm install @modelcontextprotocol/server-memory@2026.8.31
python -m tests.mcp.record_reference node_modules/@modelcontextprotocol/server-memory/dist/index.js
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import TextContent

RECORD = Path(__file__).with_name("reference_memory.json")

ADA = {
    "name": "Ada Lovelace",
    "entityType": "person",
    "observations": ["lives in London", "née Byron"],
}
ENGINE = {"name": "Analytical Engine", "entityType": "machine", "observations": []}
BABBAGE = {"name": "Babbage", "entityType": "Person", "observations": ["designed the engine"]}

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("read_graph", {}),
    ("create_entities", {"entities": [ADA, ENGINE]}),
    ("create_entities", {"entities": [ADA | {"observations": ["another"]}, BABBAGE]}),
    (
        "create_relations",
        {
            "relations": [
                {"from": "Ada Lovelace", "to": "Analytical Engine", "relationType": "programs"},
                {"from": "Babbage", "to": "Analytical Engine", "relationType": "Has designed!"},
            ]
        },
    ),
    (
        "create_relations",
        {
            "relations": [
                {"from": "Ada Lovelace", "to": "Analytical Engine", "relationType": "programs"},
                {"from": "Babbage", "to": "Ada Lovelace", "relationType": "admires"},
            ]
        },
    ),
    (
        "add_observations",
        {
            "observations": [
                {
                    "entityName": "Ada Lovelace",
                    "contents": ["née Byron", "wrote the first program", "likes\ntwo lines ☕"],
                },
                {"entityName": "Analytical Engine", "contents": ["was never built"]},
            ]
        },
    ),
    (
        "add_observations",
        {"observations": [{"entityName": "Nobody", "contents": ["is not there"]}]},
    ),
    ("read_graph", {}),
    ("search_nodes", {"query": "LOND"}),
    ("search_nodes", {"query": "person"}),
    ("search_nodes", {"query": "ngine"}),
    ("search_nodes", {"query": "zzqqxxv"}),
    ("open_nodes", {"names": ["Babbage", "Nobody"]}),
    (
        "delete_observations",
        {
            "deletions": [
                {"entityName": "Ada Lovelace", "observations": ["lives in London", "not there"]},
                {"entityName": "Nobody", "observations": ["x"]},
            ]
        },
    ),
    (
        "delete_relations",
        {
            "relations": [
                {"from": "Babbage", "to": "Ada Lovelace", "relationType": "admires"},
                {"from": "Babbage", "to": "Ada Lovelace", "relationType": "never"},
            ]
        },
    ),
    ("read_graph", {}),
    ("delete_entities", {"entityNames": ["Analytical Engine", "Nobody"]}),
    ("read_graph", {}),
    ("create_entities", {"entities": [{"name": "no type"}]}),
]


async def record(server: Path) -> dict[str, Any]:
    """The tools, and the answers to all calls."""
    with tempfile.TemporaryDirectory() as folder:
        parameters = StdioServerParameters(
            command="node",
            args=[str(server)],
            env={"MEMORY_FILE_PATH": f"{folder}/memory.jsonl"},
        )
        async with Client(stdio_client(parameters)) as client:
            tools = (await client.list_tools()).tools
            answers = [await answer_of(client, tool, arguments) for tool, arguments in CALLS]
            file = Path(folder, "memory.jsonl").read_text()
    return {
        "tools": [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools],
        "answers": answers,
        "file": file,
    }


async def answer_of(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a server answers; of an error only that it is one."""
    result = await client.call_tool(tool, arguments)
    if result.is_error:
        return {"error": True}
    (content,) = result.content
    assert isinstance(content, TextContent)
    return {"text": content.text, "structured": result.structured_content}


if __name__ == "__main__":
    recorded = asyncio.run(record(Path(sys.argv[1])))
    RECORD.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")
