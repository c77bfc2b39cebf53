"""On a real cluster of two machines, as far as Ray is concerned, which are two nodes here."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from service.bulk.embed_files import Wanted, embed_files
from service.bulk.row_files import PART_ROWS
from service.settings import Settings
from tests.bulk.test_embed_files import texts, write
from tests.service_process import clean_environment

pytestmark = pytest.mark.ray

# Nothing of it is sent anywhere, and its workers are those of the environment of the tests, not of
# one that each makes anew as `uv run` says.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster with two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        yield cluster.address
        cluster.shutdown()


def run(
    bundle: Path, input: Path, output: Path, address: str
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "service", "embed-files", str(input), str(output)]
    return subprocess.run(
        [*command, "--model", str(bundle), "--ray", address],
        env=clean_environment() | QUIET,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def embedders_after(seconds: float) -> list[psutil.Process]:
    """The processes of embedders on this machine that do not end within this time."""
    deadline = time.monotonic() + seconds
    while found := [
        process for process in psutil.process_iter(["cmdline"]) if is_embedder(process)
    ]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return found


def is_embedder(process: psutil.Process) -> bool:
    command = process.info["cmdline"] or [""]
    return "ray::" in command[0] and "_PartEmbedder" in command[0]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_cluster_gives_what_one_machine_does(
    cluster: str, format: str, prompted_bundle: Path, tmp_path: Path
) -> None:
    rows = [{"id": number, "text": text} for number, text in enumerate(texts(5 * PART_ROWS + 1))]
    input = write(tmp_path / f"in.{format}", rows)
    here, there = tmp_path / f"here.{format}", tmp_path / f"there.{format}"
    embed_files(Settings(model=prompted_bundle), input, here, Wanted())
    done = run(prompted_bundle, input, there, cluster)
    assert done.returncode == 0, done.stderr
    assert there.read_bytes() == here.read_bytes()
    assert not there.with_name(f"{there.name}.parts").exists()
    assert not embedders_after(seconds=30)


def test_a_row_that_a_worker_cannot_embed_is_named(
    cluster: str, prompted_bundle: Path, tmp_path: Path
) -> None:
    input = write(tmp_path / "in.jsonl", [{"text": "a"}, {"text": ""}])
    done = run(prompted_bundle, input, tmp_path / "out.jsonl", cluster)
    assert done.returncode == 2
    assert f"error: {input}, line 2: the text is empty" in done.stderr
