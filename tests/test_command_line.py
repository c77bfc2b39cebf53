import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import service
from service.__main__ import SUPPORTED, refuse_other_pythons
from service.command_line import COMMANDS, FLAGS
from service.settings import Settings, variable_of
from tests.service_process import REPOSITORY, clean_environment


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_the_commands() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert command in done.stdout


def test_help_of_a_command_shows_every_setting_with_its_variable() -> None:
    done = run("serve", "--help")
    for name in FLAGS:
        assert f"--{name.replace('_', '-')}" in done.stdout
        assert f"[{variable_of(name)}]" in done.stdout.replace("\n", "").replace(" ", "")


def test_a_secret_is_not_a_flag() -> None:
    assert set(Settings.__struct_fields__) - set(FLAGS) == {"neo4j_password"}


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert run("--version").stdout.strip() == service.__version__ == project["version"]


@pytest.mark.parametrize(
    ("arguments", "variables", "complaint"),
    [
        (("--port", "http"), {}, "--port=http: expected a whole number"),
        ((), {"MEMORY_PROT": "1"}, "did you mean MEMORY_PORT?"),
        (("--model", "x", "--port", "1"), {"MEMORY_THREADS": "all"}, "MEMORY_THREADS=all"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_2(
    arguments: tuple[str, ...], variables: dict[str, str], complaint: str
) -> None:
    done = run(*arguments, **variables)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unknown_flag_is_refused() -> None:
    done = run("--prot", "1")
    assert done.returncode == 2
    assert "--prot" in done.stderr


@pytest.mark.parametrize("version", [(2, 7), (3, 6), (3, 10), (3, 14), (4, 0)])
def test_another_python_is_refused_with_the_right_ones(version: tuple[int, int]) -> None:
    with pytest.raises(SystemExit) as refusal:
        refuse_other_pythons(version)
    assert "runs on Python 3.11 to 3.13" in str(refusal.value.code)
    assert f"this is Python {version[0]}.{version[1]};" in str(refusal.value.code)


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_a_supported_python_is_not_refused(version: tuple[int, int]) -> None:
    refuse_other_pythons(version)


def test_the_supported_pythons_are_those_of_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (_, oldest), (_, newest) = SUPPORTED
    assert project["requires-python"] == f">=3.{oldest},<3.{newest + 1}"


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py"])
def test_what_refuses_an_old_python_parses_on_it(name: str) -> None:
    source = Path(service.__file__).with_name(name).read_text()
    ast.parse(source, feature_version=(3, 4))
