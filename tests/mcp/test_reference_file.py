"""The file of MCP's reference memory server, loaded as a dump is."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.errors import InvalidInput
from service.memory.knowledge_graph_file import as_dump
from tests.mcp.calls import called
from tests.mcp.record_reference import RECORD
from tests.mcp.test_stdio import connect
from tests.service_process import clean_environment

pytestmark = pytest.mark.anyio

RECORDED = json.loads(RECORD.read_text())

NICK = {"name": "Nick", "entityType": "", "observations": ["", "sees\u2028lines", "mute", "mute"]}
LINKS = [
    {"from": "Nick", "to": "Ada Lovelace", "relationType": "has read of"},
    {"from": "Nick", "to": "Nobody", "relationType": "knows"},
]

# What the reference server left, and what it takes and ours has no place for.
LINES = [
    *RECORDED["file"].splitlines(),
    json.dumps({"type": "entity"} | NICK, ensure_ascii=False),
    "",
    *(json.dumps({"type": "relation"} | link) for link in LINKS),
]


def load(folder: Path, bundle: Path, file: Path) -> str:
    """What the command says that it has done."""
    store = f"sqlite:///{folder}/memory.db"
    command = ["-m", "service", "load", str(file), "--store", store, "--model", str(bundle)]
    done = subprocess.run(
        [sys.executable, *command],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr.splitlines()[-1]


async def dump_of(*lines: str) -> list[bytes]:
    async def given() -> AsyncIterator[bytes]:
        for line in lines:
            yield f"{line}\n".encode()

    return [line async for line in as_dump(given(), at=datetime(2026, 1, 2, tzinfo=UTC))]


async def test_a_user_of_the_reference_server_finds_the_graph_again(
    starter_bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "memory.jsonl"
    file.write_text("\n".join(LINES))
    report = load(tmp_path, starter_bundle, file)
    assert "created 9" in report  # 3 entities and 6 observations
    assert "relations 7, dropped 1" in report  # an observation relates to its entity
    again = load(tmp_path, starter_bundle, file)
    assert "created 0, replaced 0, unchanged 9" in again
    async with connect(tmp_path, "--model", str(starter_bundle)) as client:
        graph = await called(client, "read_graph")
    kept = NICK | {"observations": ["sees\u2028lines", "mute"]}
    left = RECORDED["answers"][-2]["structured"]
    assert graph == {"entities": [*left["entities"], kept], "relations": LINKS[:1]}


async def test_a_dump_stays_as_it_is() -> None:
    lines = ['{"type":"header","format":1}', "", '{"type":"relation","source":"a","target":"b"}']
    assert await dump_of(*lines) == [f"{line}\n".encode() for line in lines]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"type":"entity","name":"Ada"}', "entityType"),
        ('{"type":"entity","name":"a\\nb","entityType":"","observations":[]}', "$.name"),
        ('{"type":"memory","id":"a","content":"a"}', "memory"),
        ("no JSON", "malformed"),
    ],
)
async def test_a_line_that_is_not_valid_is_named(line: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match="line 3: ") as refusal:
        await dump_of(LINES[0], "", line)
    assert reason in str(refusal.value)
