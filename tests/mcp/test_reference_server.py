"""Ours in the place of MCP's reference memory server; record_reference.py recorded its answers."""

import asyncio
import json
from typing import Any

import pytest
from mcp import Client

from service.mcp.graph_tools import GRAPH_TOOLS
from tests.mcp.calls import called, names_of, refused
from tests.mcp.record_reference import CALLS, RECORD, answer_of

pytestmark = pytest.mark.anyio

REFERENCE = json.loads(RECORD.read_text())

ADA = {"name": "Ada", "entityType": "person", "observations": ["drinks tea", "lives in London"]}
BOB = {"name": "Bob", "entityType": "person", "observations": ["drinks tea"]}


def shape_of(schema: dict[str, Any], whole: dict[str, Any] | None = None) -> Any:
    """Which fields a schema has and requires, of which types; not what it says of them."""
    whole = whole or schema
    if reference := schema.get("$ref"):
        return shape_of(whole["$defs"][reference.rpartition("/")[2]], whole)
    match schema["type"]:
        case "object":
            fields = schema.get("properties", {}).items()
            shapes = {name: shape_of(nested, whole) for name, nested in fields}
            return shapes, sorted(schema.get("required", []))
        case "array":
            return [shape_of(schema["items"], whole)]
        case name:
            return name


def parsed(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer with its text as what it says in JSON, if it is JSON."""
    text = answer.get("text", "")
    return answer | {"text": json.loads(text)} if text.startswith(("{", "[")) else answer


async def test_every_call_is_answered_as_the_reference_server_answers_it(
    client_on_each_store: Client,
) -> None:
    for (tool, arguments), recorded in zip(CALLS, REFERENCE["answers"], strict=True):
        answer = await answer_of(client_on_each_store, tool, arguments)
        assert parsed(answer) == parsed(recorded), tool


async def test_the_tools_take_and_give_what_those_of_the_reference_server_do(
    client: Client,
) -> None:
    ours = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert {tool.name for tool in GRAPH_TOOLS} == {tool["name"] for tool in REFERENCE["tools"]}
    for theirs in REFERENCE["tools"]:
        tool = ours[theirs["name"]]
        assert tool.title == theirs["title"]
        assert shape_of(tool.input_schema) == shape_of(theirs["inputSchema"])
        assert tool.output_schema is not None
        assert shape_of(tool.output_schema) == shape_of(theirs["outputSchema"])
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint == theirs["annotations"]["readOnlyHint"]
        assert tool.annotations.destructive_hint == theirs["annotations"]["destructiveHint"]


async def test_the_graph_is_a_resource(client: Client) -> None:
    await called(client, "create_entities", entities=[ADA])
    (resource,) = (await client.list_resources()).resources
    assert resource.uri == "memory://knowledge-graph"
    (contents,) = (await client.read_resource(resource.uri)).contents
    assert json.loads(contents.text) == {"entities": [ADA], "relations": []}  # type: ignore[union-attr]


async def test_nodes_are_found_by_meaning_and_by_several_words_too(client: Client) -> None:
    printer = {"name": "LP-7", "entityType": "device", "observations": ["is out of toner"]}
    await called(client, "create_entities", entities=[ADA, printer])
    for query, name in (("What beverage does Ada like?", "Ada"), ("toner out", "LP-7")):
        assert names_of(await called(client, "search_nodes", query=query)) == [name]
    assert names_of(await called(client, "search_nodes", query="")) == ["Ada", "LP-7"]


async def test_what_is_observed_of_two_entities_is_kept_of_each(client: Client) -> None:
    await called(client, "create_entities", entities=[ADA, BOB])
    deletions = [{"entityName": "Ada", "observations": ["drinks tea"]}]
    await called(client, "delete_observations", deletions=deletions)
    graph = await called(client, "read_graph")
    assert graph["entities"] == [ADA | {"observations": ["lives in London"]}, BOB]


async def test_one_name_is_one_entity_whoever_creates_it(client: Client) -> None:
    both = [called(client, "create_entities", entities=[ADA]) for _ in range(2)]
    await asyncio.gather(*both)
    twice = await called(client, "create_entities", entities=[BOB, BOB | {"entityType": "dog"}])
    assert twice == {"entities": [BOB]}
    assert names_of(await called(client, "read_graph")) == ["Ada", "Bob"]


async def test_a_relation_to_what_is_not_there_is_refused_and_none_is_made(client: Client) -> None:
    await called(client, "create_entities", entities=[ADA, BOB])
    relations = [
        {"from": "Ada", "to": "Bob", "relationType": "knows"},
        {"from": "Ada", "to": "Carol", "relationType": "knows"},
    ]
    reason = await refused(client, "create_relations", relations=relations)
    assert reason == "there is no entity 'Carol'; create it first"
    assert (await called(client, "read_graph"))["relations"] == []


async def test_entities_and_observations_are_memories(client: Client) -> None:
    await called(client, "create_entities", entities=[ADA, BOB])
    relations = [{"from": "Ada", "to": "Bob", "relationType": "is married to"}]
    await called(client, "create_relations", relations=relations)
    recalled = await called(client, "recall", query="In which city does Ada live?")
    assert "Ada: lives in London" in recalled["context"]
    found = await called(client, "search", query="lives in London", mode="text", hops=2)
    assert [result["memory"]["title"] for result in found["results"]] == ["Ada"]
    related = {each["memory"]["content"]: each["hops"] for each in found["related"]}
    assert related["Ada (person)"] == 1
    assert related["Bob (person)"] == 2


async def test_what_supersedes_an_observation_is_observed_of_the_entity(client: Client) -> None:
    await called(client, "create_entities", entities=[ADA])
    found = await called(client, "search", query="lives in London", mode="text")
    old = found["results"][0]["memory"]["id"]
    await called(client, "supersede", supersedes=old, content="lives in Ockham")
    graph = await called(client, "open_nodes", names=["Ada"])
    assert graph["entities"][0]["observations"] == ["drinks tea", "lives in Ockham"]


@pytest.mark.parametrize(
    ("tool", "arguments", "place"),
    [
        ("create_entities", {"entities": [ADA | {"name": ""}]}, "$.entities[0].name"),
        ("create_entities", {"entities": [ADA | {"name": "a\nb"}]}, "$.entities[0].name"),
        ("create_entities", {"entities": [ADA | {"observations": [" "]}]}, "observations[0]"),
        ("create_relations", {"relations": [{"from": "Ada", "to": "Bob"}]}, "relationType"),
        ("open_nodes", {"names": "Ada"}, "$.names"),
    ],
)
async def test_what_cannot_be_kept_is_refused_with_the_place(
    client: Client, tool: str, arguments: dict[str, Any], place: str
) -> None:
    assert place in await refused(client, tool, **arguments)
