import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.embedding.runtime_package import CPU, CUDA, runtime_package
from service.errors import ModelLoadError
from tests.service_process import clean_environment


def install(folder: Path, packages: Sequence[str], *, files: bool = True) -> Path:
    """Leave in the folder what an installer leaves of these packages."""
    for name in packages:
        described = folder / f"{name.replace('-', '_')}-1.31.1.dist-info"
        described.mkdir(parents=True)
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    if files:
        (folder / "onnxruntime").mkdir(parents=True)
        (folder / "onnxruntime" / "__init__.py").touch()
    return folder


@pytest.mark.parametrize("name", [CPU, CUDA])
def test_one_package_is_the_runtime(tmp_path: Path, name: str) -> None:
    assert runtime_package([str(install(tmp_path, [name]))]) == name


@pytest.mark.parametrize(
    ("packages", "files", "message"),
    [
        ([CPU, CUDA], True, "installed together"),
        ([CUDA], False, "its files are gone"),
        ([], False, "not installed"),
    ],
)
def test_anything_else_is_refused_with_what_to_do(
    tmp_path: Path, packages: Sequence[str], files: bool, message: str
) -> None:
    folder = install(tmp_path, packages, files=files)
    with pytest.raises(ModelLoadError, match=message) as refused:
        runtime_package([str(folder)])
    assert "uv sync --no-default-groups --extra cuda" in str(refused.value)


def start(*flags: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *flags, "-m", "service", "--version"],
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_service_does_not_start_with_both_or_none(tmp_path: Path) -> None:
    path = f"{clean_environment()['PYTHONPATH']}:{install(tmp_path, [CUDA])}"
    both, none = start(PYTHONPATH=path), start("-S")
    assert "installed together" in both.stderr
    assert "ONNX Runtime is not installed" in none.stderr
    for done in (both, none):
        assert done.returncode == 1
        assert "Traceback" not in done.stderr


def test_nothing_is_exported_with_both(tmp_path: Path) -> None:
    path = f"{clean_environment()['PYTHONPATH']}:{install(tmp_path, [CUDA], files=False)}"
    done = subprocess.run(
        [sys.executable, "-m", "export", "starter", "--models-dir", str(tmp_path / "models")],
        env=clean_environment() | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "installed together" in done.stderr
    assert not (tmp_path / "models").exists()


def test_the_service_starts_with_one() -> None:
    assert start().returncode == 0
