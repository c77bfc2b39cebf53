"""The image, built and run as far as that goes without a container engine."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.image import Image, build
from tests.service_process import DEADLINE_SECONDS

pytestmark = pytest.mark.slow

NOT_IN_IT = ("torch", "transformers", "onnx", "sentence_transformers", "pytest", "pip")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user can reach, other than pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def image(folder: Path) -> Image:
    return build("cpu", folder)


@pytest.fixture(scope="module")
def volumes(image: Image, folder: Path, starter_bundle: Path) -> dict[Path, str]:
    """A bundle, and a new volume: it begins with what the image has there."""
    shutil.copytree(starter_bundle, folder / "models" / starter_bundle.name)
    return {folder / "models": "/models", image.root / "data": "/data"}


def test_without_a_key_it_says_how_to_make_one(image: Image, volumes: dict[Path, str]) -> None:
    with image.running([], volumes) as service:
        assert service.process.wait(DEADLINE_SECONDS) == 2
        assert "python -m service keys add" in service.log


def test_it_serves_as_another_user_on_files_that_cannot_be_written(
    image: Image, volumes: dict[Path, str]
) -> None:
    add_key = ["keys", "add", "--tenant", "demo", "--scope", "read", "--scope", "write"]
    with image.running(add_key, volumes) as command:
        assert command.process.wait(DEADLINE_SECONDS) == 0, command.log
        (key,) = re.findall(r"^ams_\S+$", command.log, re.MULTILINE)
    memories = ["--header", f"Authorization: Bearer {key}", "http://127.0.0.1:8080/memories"]
    with image.running([], volumes) as service:
        service.wait_until_healthy()
        assert service.user_id == 10001
        content = json.dumps({"id": "tea", "content": "Ada prefers tea."})
        service.curl(*memories, "--json", content)
        service.send("TERM")
        assert service.process.wait(DEADLINE_SECONDS) == 0, service.log
        assert "stopped" in service.log
    with image.running([], volumes) as service:
        service.wait_until_healthy()
        (memory,) = json.loads(service.curl(*memories))["memories"]
        assert memory["content"] == "Ada prefers tea."


def test_it_has_what_the_service_needs_and_no_more(image: Image) -> None:
    (packages,) = image.root.glob("opt/venv/lib/python*/site-packages")
    assert (packages / "onnxruntime").is_dir()
    assert [name for name in NOT_IN_IT if (packages / name).exists()] == []
    assert {path.name for path in image.root.glob("app/*")} == {"service"}
