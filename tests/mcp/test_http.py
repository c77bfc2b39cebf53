"""/mcp of a running service, through the official SDK's client over a socket."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from service.keys import add_key
from tests.api.requests import refused, serving
from tests.mcp import calls
from tests.mcp.calls import called, names_of
from tests.service_process import ServiceProcess, running_service

pytestmark = pytest.mark.anyio

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def service(
    starter_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("mcp")
    with running_service(folder, "--model", str(starter_bundle)) as service:
        yield service


async def test_tools_are_called_over_http(service: ServiceProcess) -> None:
    async with Client(f"{service.url}/mcp") as client:
        assert len((await client.list_tools()).tools) == 16
        memory = await called(client, "remember", content="Ada drinks tea.")
        recalled = await called(client, "recall", query="What does Ada drink?")
        assert [citation["id"] for citation in recalled["citations"]] == [memory["id"]]
        entity = {"name": "Bob", "entityType": "person", "observations": ["mends clocks"]}
        await called(client, "create_entities", entities=[entity])
        assert names_of(await called(client, "search_nodes", query="clock")) == ["Bob"]
        (contents,) = (await client.read_resource("memory://knowledge-graph")).contents
        assert "mends clocks" in contents.text  # type: ignore[union-attr]


async def test_memories_are_the_same_over_rest_and_mcp(service: ServiceProcess) -> None:
    body = {"id": "kettle", "content": "Ada has a kettle."}
    httpx.post(f"{service.url}/memories", json=body).raise_for_status()
    async with Client(f"{service.url}/mcp") as client:
        assert (await called(client, "get", id="kettle"))["content"] == "Ada has a kettle."
        await called(client, "forget", id="kettle")
    assert httpx.get(f"{service.url}/memories/kettle").status_code == 404


def test_clients_of_the_older_protocol_are_answered(service: ServiceProcess) -> None:
    answer = httpx.post(f"{service.url}/mcp", json=INITIALIZE, headers=ACCEPT)
    assert answer.status_code == 200
    assert answer.json()["result"]["protocolVersion"] == "2025-06-18"


def test_a_name_that_was_made_to_lead_here_is_refused(service: ServiceProcess) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        answer = httpx.post(f"{service.url}/mcp", json=INITIALIZE, headers=ACCEPT | headers)
        assert answer.status_code in (403, 421)


def test_without_the_sdk_the_service_runs_and_says_what_is_missing(
    starter_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith("service.mcp.") or name.split(".")[0] == "mcp":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)
    with serving(starter_bundle, f"sqlite:///{tmp_path}/memory.db") as client:
        detail = refused(client.post("/mcp", json=INITIALIZE), 501, "not_served")
    assert "uv sync --extra mcp" in detail


@asynccontextmanager
async def with_key(service: ServiceProcess, key: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http_client:
        transport = streamable_http_client(f"{service.url}/mcp", http_client=http_client)
        async with Client(transport) as client:
            yield client


async def test_a_key_opens_its_own_tenant_and_what_its_scopes_say(
    starter_bundle: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"
    _, of_ada = add_key(keys, tenant="ada", scopes=("read", "write"))
    _, of_bob = add_key(keys, tenant="bob", scopes=("read",))
    with running_service(
        tmp_path, "--model", str(starter_bundle), "--api-keys", str(keys)
    ) as service:
        assert httpx.post(f"{service.url}/mcp", json=INITIALIZE, headers=ACCEPT).status_code == 401
        entity = {"name": "Ada", "entityType": "person", "observations": ["drinks tea"]}
        async with with_key(service, of_ada) as client:
            await called(client, "create_entities", entities=[entity])
            assert names_of(await called(client, "read_graph")) == ["Ada"]
        async with with_key(service, of_bob) as client:
            assert names_of(await called(client, "search_nodes", query="Ada")) == []
            assert await called(client, "search", query="tea") == {"results": []}
            assert "the scope write" in await calls.refused(client, "remember", content="a")
