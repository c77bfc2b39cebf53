from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mcp import Client, MCPError

from tests.mcp.calls import called, refused

pytestmark = pytest.mark.anyio


async def test_what_is_remembered_is_recalled_superseded_and_forgotten(client: Client) -> None:
    tea = await called(
        client, "remember", content="Ada drinks tea.", tags=["drinks"], user_id="ada"
    )
    again = await called(client, "remember", content="Ada drinks tea.", user_id="ada")
    assert (again["id"], again["duplicate"]) == (tea["id"], True)
    recalled = await called(client, "recall", query="What does Ada drink?")
    assert [citation["id"] for citation in recalled["citations"]] == [tea["id"]]
    coffee = await called(client, "supersede", supersedes=tea["id"], content="Ada drinks coffee.")
    assert (coffee["supersedes"], coffee["tags"]) == (tea["id"], ["drinks"])
    assert "superseded_by" in await called(client, "get", id=tea["id"])
    then = await called(client, "get", id=tea["id"], as_of=tea["valid_from"])
    assert then["content"] == "Ada drinks tea."
    assert await called(client, "forget", id=coffee["id"]) == {"memories": 1, "relations": 0}
    found = await called(client, "search", query="drinks")
    assert [result["memory"]["id"] for result in found["results"]] == [tea["id"]]


async def test_nothing_relevant_recalls_nothing(client: Client) -> None:
    await called(client, "remember", content="The printer is out of toner.")
    recalled = await called(client, "recall", query="How do I renew a passport?")
    assert recalled == {"context": "", "citations": [], "tokens": 0}


async def test_related_memories_are_found(client: Client) -> None:
    for id in ("a", "b"):
        await called(client, "remember", id=id, content=f"memory {id}")
    relation = await called(client, "relate", source="a", target="b", relation_type="CAUSES")
    assert (relation["source"], relation["target"]) == ("a", "b")
    found = await called(client, "search", query="memory a", limit=1, hops=1)
    assert [each["memory"]["id"] for each in found["related"]] == ["b"]


async def test_metadata_comes_back_as_it_was_with_nulls(client: Client) -> None:
    metadata = {"a": None, "b": [None, {"c": None}]}
    memory = await called(client, "remember", content="a", metadata=metadata)
    assert memory["metadata"] == metadata
    assert "title" not in memory


@pytest.mark.parametrize(
    ("tool", "arguments", "reason"),
    [
        ("remember", {}, "content"),
        ("remember", {"content": "a", "contents": "b"}, "contents"),
        ("remember", {"content": "a" * 65_537}, "$.content"),
        ("recall", {"query": "a", "filter": {"colour": "red"}}, "there is no such field"),
        ("search", {"query": "a", "limit": 0}, "$.limit"),
        ("get", {"id": "nothing"}, "there is no memory 'nothing'"),
        ("forget", {"id": "nothing"}, "there is no memory 'nothing'"),
        ("relate", {"source": "a", "target": "a"}, "to another memory"),
        ("supersede", {"supersedes": "nothing", "content": "a"}, "there is no memory"),
    ],
)
async def test_what_is_wrong_with_a_call_is_said_to_the_agent(
    client: Client, tool: str, arguments: dict[str, Any], reason: str
) -> None:
    assert reason in await refused(client, tool, **arguments)


async def test_an_unknown_tool_or_resource_is_an_error_of_the_protocol(client: Client) -> None:
    with pytest.raises(MCPError, match="no tool 'remembr'"):
        await client.call_tool("remembr", {})
    with pytest.raises(MCPError, match="memory://knowledge-graph"):
        await client.read_resource("memory://all")


async def test_every_tool_says_what_it_does_takes_and_gives(client: Client) -> None:
    for tool in (await client.list_tools()).tools:
        assert tool.description
        for schema in (tool.input_schema, tool.output_schema):
            assert schema is not None
            Draft202012Validator.check_schema(schema)
            assert schema["type"] == "object"
            assert r"\\Z" not in str(schema)
