import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from service.bundles import find_bundle, find_or_build_bundle
from service.embedding.manifest import MANIFEST_NAME
from tests.service_process import REPOSITORY, clean_environment, running_service


def put_bundles(models: Path, *names: str) -> None:
    for name in names:
        (models / name).mkdir(parents=True)
        (models / name / MANIFEST_NAME).touch()


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("all-minilm-l6-v2", "a-model", "embeddinggemma-300m"), "embeddinggemma-300m"),
        (("all-minilm-l6-v2", "b-model", "a-model"), "a-model"),
        (("all-minilm-l6-v2",), "all-minilm-l6-v2"),
    ],
)
def test_the_products_model_comes_first_and_the_starter_last(
    tmp_path: Path, names: tuple[str, ...], chosen: str
) -> None:
    put_bundles(tmp_path, *names)
    assert find_bundle(tmp_path) == tmp_path / chosen == find_or_build_bundle(tmp_path)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "half-built").mkdir()
    assert find_bundle(tmp_path) is None
    assert find_bundle(tmp_path / "nowhere") is None


@pytest.mark.slow
def test_the_first_start_builds_the_starter_model_and_serves_it(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        assert httpx.get(f"{service.url}/info").json()["model"] == "all-minilm-l6-v2"
        assert f"no bundle in {tmp_path}/models: building the starter model" in service.log
        assert service.end() == 0
    assert find_bundle(tmp_path / "models")


def test_a_signal_during_the_first_start_ends_it_and_the_build(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        service.wait_for("all-MiniLM-L6-v2 -> ")  # says the build itself
        build = psutil.Process(service.process.pid).children()
        assert build
        assert service.end(signal.SIGTERM) == 0
        assert not any(process.is_running() for process in build)


@pytest.fixture
def service_alone(tmp_path: Path) -> Path:
    """A folder that holds the service and not the exporter, as an image for production does."""
    (tmp_path / "service").symlink_to(REPOSITORY / "service")
    return tmp_path


@pytest.mark.parametrize("exporter", [None, "raise SystemExit('out of disk')"])
def test_where_nothing_can_be_built_the_ways_out_are_named(
    service_alone: Path, exporter: str | None
) -> None:
    if exporter:
        (service_alone / "export").mkdir()
        (service_alone / "export" / "__main__.py").write_text(exporter)
    done = subprocess.run(
        [sys.executable, "-m", "service"],
        cwd=service_alone,
        env=clean_environment() | {"PYTHONPATH": os.fspath(service_alone)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: no bundle in models")
    assert "MEMORY_MODEL" in error
    assert "python -m export" in error
    assert ("out of disk" in done.stderr) == bool(exporter)
    assert "Traceback" not in done.stderr
