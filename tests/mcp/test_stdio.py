"""`python -m service mcp` as a desktop client runs it: a process that it talks to through pipes."""

import json
import os
import signal
import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.mcp.calls import called, refused
from tests.service_process import clean_environment, running_service

pytestmark = pytest.mark.anyio


def arguments_of(folder: Path, *flags: str) -> list[str]:
    store = f"sqlite:///{folder}/memory.db"
    return ["-m", "service", "mcp", "--store", store, "--warm-up", "false", *flags]


def connect(folder: Path, *flags: str) -> AbstractAsyncContextManager[Client]:
    parameters = StdioServerParameters(
        command=sys.executable,
        args=arguments_of(folder, *flags),
        env=clean_environment(),
        cwd=folder,
    )
    return Client(stdio_client(parameters))


def line(id: int, method: str, **parameters: Any) -> str:
    """A request as a client writes it."""
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": parameters})


INITIALIZE = line(
    1,
    "initialize",
    protocolVersion="2025-06-18",
    capabilities={},
    clientInfo={"name": "test", "version": "1"},
)
INITIALIZED = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"})


def start(folder: Path, *flags: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, *arguments_of(folder, *flags)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
        cwd=folder,
        text=True,
    )
    return process


def send(process: "subprocess.Popen[str]", *lines: str) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(f"{each}\n" for each in lines))
    process.stdin.flush()


def received(process: "subprocess.Popen[str]") -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.mark.slow
async def test_clients_are_answered_while_the_model_is_built_and_see_their_own_tenant(
    tmp_path: Path,
) -> None:
    """There is no bundle in the folder, so that the starter model is built first."""
    async with connect(tmp_path) as client:
        tools = await client.list_tools()
        assert not (tmp_path / "models/all-minilm-l6-v2/manifest.json").exists()
        assert {"remember", "recall", "read_graph"} <= {tool.name for tool in tools.tools}
        await called(client, "remember", content="Ada drinks tea.")
        assert len((await called(client, "search", query="tea"))["results"]) == 1
    async with connect(tmp_path, "--tenant", "bob") as client:
        assert await called(client, "search", query="tea") == {"results": []}


def test_only_the_protocol_is_on_the_standard_output_and_its_end_ends_the_process(
    starter_bundle: Path, tmp_path: Path
) -> None:
    process = start(tmp_path, "--model", str(starter_bundle), "--log-level", "debug")
    calls = [
        INITIALIZE,
        INITIALIZED,
        line(2, "tools/call", name="remember", arguments={"content": "Ada drinks tea."}),
        line(3, "tools/call", name="recall", arguments={"query": "What does Ada drink?"}),
        "this is no message",
        line(4, "ping"),
    ]
    send(process, *calls)
    answers = [received(process) for _ in range(4)]
    output, log = process.communicate()
    assert {answer.get("id") for answer in answers} >= {1, 2, 3, 4} - {None}
    assert all(json.loads(rest)["jsonrpc"] == "2.0" for rest in output.splitlines())
    assert process.returncode == 0
    assert "loaded all-minilm-l6-v2" in log


@pytest.mark.slow
def test_what_was_acknowledged_survives_kill_9(starter_bundle: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "--model", str(starter_bundle))
    remember = line(2, "tools/call", name="remember", arguments={"id": "a", "content": "tea"})
    send(process, INITIALIZE, INITIALIZED, remember)
    received(process)
    assert not received(process)["result"].get("isError")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    process = start(tmp_path, "--model", str(starter_bundle))
    get = line(2, "tools/call", name="get", arguments={"id": "a"})
    send(process, INITIALIZE, INITIALIZED, get)
    received(process)
    assert received(process)["result"]["structuredContent"]["content"] == "tea"
    process.communicate()


@pytest.mark.slow
async def test_a_store_that_is_in_use_is_said_to_be_and_is_opened_when_it_is_free(
    starter_bundle: Path, tmp_path: Path
) -> None:
    flags = ("--model", str(starter_bundle))
    store = ("--store", f"sqlite:///{tmp_path}/memory.db")
    with running_service(tmp_path, *flags, *store) as service:
        assert service.port
        async with connect(tmp_path, *flags) as client:
            reason = await refused(client, "remember", content="a")
            assert f"in use by process {service.process.pid}" in reason
            assert service.end() == 0
            await called(client, "remember", content="a")
