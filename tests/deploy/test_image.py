"""The image, built and run as far as that goes without a container engine."""

import json
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


def test_it_serves_as_another_user_on_files_that_cannot_be_written(
    image: Image, folder: Path, starter_bundle: Path
) -> None:
    shutil.copytree(starter_bundle, folder / "models" / starter_bundle.name)
    # What the image has there is what a new volume begins with.
    volumes = {folder / "models": "/models", image.root / "data": "/data"}
    memories = "http://127.0.0.1:8080/memories"
    with image.running([], volumes) as service:
        service.wait_until_healthy()
        assert service.user_id == 10001
        content = json.dumps({"id": "tea", "content": "Ada prefers tea."})
        service.curl(memories, "--json", content)
        service.send("TERM")
        assert service.process.wait(DEADLINE_SECONDS) == 0, service.log
        assert "stopped" in service.log
    with image.running([], volumes) as service:
        service.wait_until_healthy()
        assert json.loads(service.curl(f"{memories}/tea"))["content"] == "Ada prefers tea."


def test_it_has_what_the_service_needs_and_no_more(image: Image) -> None:
    (packages,) = image.root.glob("opt/venv/lib/python*/site-packages")
    assert (packages / "onnxruntime").is_dir()
    assert [name for name in NOT_IN_IT if (packages / name).exists()] == []
    assert {path.name for path in image.root.glob("app/*")} == {"service"}
