"""That the benchmark of a GPU runs, rehearsed without one; its figures mean nothing here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench_cuda import HTTP_TEXTS, over_http
from benchmarks.cuda_goals import operations_of_token, utilisation, verdicts
from service.embedding.manifest import read_manifest
from tests.checkpoints import FULL, config
from tests.service_process import REPOSITORY, clean_environment

OURS, PEER = "this project fp16", "sentence-transformers bf16 cuda"


def results(shape: str, ours: float, peer: float, milliseconds: float = 1.0) -> dict[str, object]:
    return {
        shape: {
            OURS: {"tokens_per_second": ours, "milliseconds": milliseconds},
            PEER: {"tokens_per_second": peer, "milliseconds": milliseconds},
        }
    }


def test_a_token_of_embeddinggemma_takes_two_operations_for_each_weight_of_its_layers() -> None:
    """4.2 million products a layer, and what attention adds for each token of the text."""
    alone = operations_of_token(config(FULL), 0)
    assert alone == 2 * 24 * (768 * (768 + 512 + 768) + 3 * 768 * 1_152)
    assert operations_of_token(config(FULL), 100) - alone == 2 * 24 * 100 * 2 * 768


def test_utilisation_is_a_share_of_the_rate_of_products() -> None:
    each = operations_of_token(config(FULL), 256)
    found = utilisation(results("64x256", 1_000, 500), "64x256", config(FULL), 2_000 * each)
    assert found == {OURS: pytest.approx(0.5)}


def test_each_goal_is_told_from_what_was_measured() -> None:
    single = results("1x16", ours=200, peer=100, milliseconds=3.5)
    assert [verdict.reached for verdict in verdicts(single, {OURS: 0.36}, 9_999)] == [
        True,
        False,
        True,
        False,
    ]
    assert [verdict.reached for verdict in verdicts(results("8x2048", 199, 100), {}, None)] == [
        False
    ]


@pytest.mark.slow
def test_the_service_is_asked_over_http(starter_bundle: Path) -> None:
    found = over_http(starter_bundle, read_manifest(starter_bundle), seconds=0.2)
    assert found.keys() == {1, 10, 50, HTTP_TEXTS}
    assert all(figures["texts_per_second"] > 0 for figures in found.values())


@pytest.mark.export
def test_it_runs_without_a_gpu(tmp_path: Path) -> None:
    saved = tmp_path / "cuda.json"
    command = [sys.executable, "benchmarks/bench_cuda.py", "--device", "cpu", "--size", "tiny"]
    shapes = ["--shapes", "1x16", "64x256", "--rounds", "1", "--seconds", "0.1"]
    done = subprocess.run(
        [*command, *shapes, "--no-http", "--matrix", "64", "--save", str(saved)],
        cwd=REPOSITORY,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "64x256: this project int8 uses" in done.stdout
    report = json.loads(saved.read_text())["results"]
    assert report["engines"].keys() == {"1x16", "64x256"}
    assert report["parity"] == {"int8": None}
    assert saved.with_suffix(".svg").stat().st_size > 1_000
    again = [*command, *shapes, "--no-http", "--matrix", "64", "--check", str(saved)]
    checked = subprocess.run(
        again, cwd=REPOSITORY, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert checked.returncode == 1, checked.stderr
    assert "int8: its parity is unknown" in checked.stdout
