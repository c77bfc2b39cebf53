"""What deploy/README.md says to type, as far as it can be typed without a container engine."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.neo4j_server import running_neo4j, versions_to_test
from tests.service_process import (
    DEADLINE_SECONDS,
    REPOSITORY,
    ServiceProcess,
    clean_environment,
    running_service,
)

README = (REPOSITORY / "deploy" / "README.md").read_text()
COMMANDS: list[str] = [
    command
    for block in re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    for command in block.splitlines()
]
ADD_KEY = "uv run python -m service keys add --api-keys keys.json"
EXPORT = 'curl --fail --header "Authorization: Bearer $KEY" \'http://127.0.0.1:8080/export'
IMPORT = 'curl --fail --header "Authorization: Bearer $KEY" --header \'Content-Type'
BACK_UP = "docker exec memory "


def command(beginning: str) -> str:
    (found,) = [command for command in COMMANDS if command.startswith(beginning)]
    return found


def inline(beginning: str) -> str:
    """A command that stands within a sentence."""
    (found,) = re.findall(rf"`({beginning}[^`]*)`", README)
    return str(found)


def run(command: str, folder: Path, **variables: str) -> str:
    environment = clean_environment() | variables
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("line", [line for line in COMMANDS if " keys add " in line])
def test_each_way_of_making_a_key_makes_one(line: str, tmp_path: Path) -> None:
    words = line[line.index("keys add") :]
    assert run(f"python -m service {words} --api-keys here.json", tmp_path).startswith("ams_")


@pytest.mark.slow
def test_backups_hold_what_is_there(starter_bundle: Path, tmp_path: Path) -> None:
    key = run(f"{command(ADD_KEY)} --scope admin".removeprefix("uv run "), tmp_path).strip()
    flags = ("--model", str(starter_bundle), "--api-keys", "keys.json")
    headers = {"Authorization": f"Bearer {key}"}

    def here(text: str, service: ServiceProcess) -> str:
        return text.replace("http://127.0.0.1:8080", service.url).replace("/data/", f"{tmp_path}/")

    def contents(service: ServiceProcess) -> list[str]:
        listed = httpx.get(f"{service.url}/memories", headers=headers).json()
        return [memory["content"] for memory in listed["memories"]]

    with running_service(tmp_path, *flags) as service:
        memory = {"content": "Ada prefers tea."}
        httpx.post(f"{service.url}/memories", json=memory, headers=headers).raise_for_status()
        run(here(command(EXPORT), service), tmp_path, KEY=key)
        run(here(command(BACK_UP).removeprefix(BACK_UP), service), tmp_path)
        assert service.end() == 0
    with running_service(tmp_path, *flags, "--store", "sqlite:///backup.db") as restored:
        assert contents(restored) == ["Ada prefers tea."]
    with running_service(tmp_path, *flags, "--store", "sqlite:///new.db") as new:
        run(here(command(IMPORT), new), tmp_path, KEY=key)
        assert contents(new) == ["Ada prefers tea."]


@pytest.mark.slow
def test_a_dump_of_neo4j_holds_what_was_there(
    starter_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    _, _, dump = command("compose run --rm --no-deps --volume").partition(" neo4j-admin ")
    load = inline("neo4j-admin database load").removeprefix("neo4j-admin ")

    with running_neo4j(versions_to_test()[-1], tmp_path / "neo4j") as server:

        def administer(words: str) -> None:
            server.stop()
            server.administer(*words.replace("=/backups", f"={backups}").split())
            server.start()

        flags = ("--model", str(starter_bundle), "--store", server.uri)
        monkeypatch.setenv("NEO4J_USERNAME", server.username)
        monkeypatch.setenv("NEO4J_PASSWORD", server.password)
        with (
            running_service(tmp_path, *flags) as service,
            httpx.Client(base_url=service.url, timeout=DEADLINE_SECONDS) as client,
        ):
            client.post("/memories", json={"content": "Ada prefers tea."}).raise_for_status()
            administer(dump)
            client.post("/memories", json={"content": "Lost."}).raise_for_status()
            administer(load)
            (memory,) = client.get("/memories").json()["memories"]
            assert memory["content"] == "Ada prefers tea."
