import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.embedding.manifest import MANIFEST_NAME, Parity
from tests.embedding.test_manifest import change
from tests.service_process import clean_environment


def check(bundle: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "service", "check", "--model", str(bundle), *flags]
    return subprocess.run(
        command,
        cwd=bundle.parent,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def outcomes(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    return {check["name"]: check["outcome"] for check in json.loads(done.stdout)["checks"]}


@pytest.fixture
def own_bundle(starter_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the starter model that a test may damage."""
    return Path(shutil.copytree(starter_bundle, tmp_path / "own"))


def test_a_sound_bundle_passes_and_says_how_fast_it_is(starter_bundle: Path) -> None:
    done = check(starter_bundle, "--json")
    assert done.returncode == 0, done.stdout
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["ok"]
    found = {check["name"]: check for check in report["checks"]}
    assert list(found) == [
        "python",
        "packages",
        "execution providers",
        "bundle",
        "parity",
        "dimensions",
        "plan",
        "known answers",
        "batch invariance",
        "store",
        "1 text",
        "10 texts",
        "50 texts",
    ]
    assert found["known answers"]["figures"]["largest_difference"] <= 0.02
    assert found["batch invariance"]["figures"]["cosine_min"] >= 0.9999
    assert set(found["plan"]["figures"]) == {"workers", "threads", "max_batch_tokens"}
    assert found["50 texts"]["figures"]["texts_per_second"] > 0
    assert found["parity"]["outcome"] == "warning"
    assert {check["outcome"] for check in report["checks"]} == {"ok", "warning"}


def test_the_report_is_a_table_that_people_can_read(starter_bundle: Path) -> None:
    done = check(starter_bundle)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["ok", "python"]
    assert lines[-1] == "nothing is wrong"
    assert any(line.startswith("warning  parity") for line in lines)
    assert any("texts/s" in line for line in lines)


def test_measured_parity_is_reported(own_bundle: Path) -> None:
    manifest = json.loads((own_bundle / MANIFEST_NAME).read_text())
    (variant,) = manifest["variants"]
    parity = Parity(
        reference="a reference",
        texts=7,
        cosine_min=0.98765,
        cosine_mean=0.99,
        top1_agreement=1.0,
        reference_accuracy=0.9,
    )
    change(own_bundle, variants=[variant | {"parity": msgspec.structs.asdict(parity)}])
    done = check(own_bundle)
    assert "ok       parity" in done.stdout
    assert "cosine to a reference at least 0.98765, mean 0.99000" in done.stdout


def test_wrong_answers_fail_the_check(own_bundle: Path) -> None:
    known = json.loads((own_bundle / MANIFEST_NAME).read_text())["known_answers"]
    change(own_bundle, known_answers=known | {"similarities": [0.9, 0.1, 0.1, 0.1]})
    done = check(own_bundle, "--json")
    assert done.returncode == 1
    assert outcomes(done)["known answers"] == "failed"


def test_a_bundle_that_cannot_be_loaded_fails_the_check(own_bundle: Path) -> None:
    (own_bundle / "tokenizer.json").write_text("{}")
    done = check(own_bundle)
    assert done.returncode == 1
    assert "failed   model" in done.stdout
    assert "its manifest says" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 of 4 checks failed"
    assert "Traceback" not in done.stderr
