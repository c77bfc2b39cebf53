from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fuzzing import fuzz
from tests.service_process import ServiceProcess, running_service


@pytest.fixture(scope="module")
def service(
    prompted_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    with running_service(folder, "--model", str(prompted_bundle)) as service:
        yield service
        assert httpx.get(f"{service.url}/health/ready").status_code == 200
        assert "Traceback" not in service.log


def test_every_documented_example_is_answered_as_documented(
    service: ServiceProcess, tmp_path: Path
) -> None:
    fuzzed = fuzz(service.url, tmp_path, ["examples"], examples=1, seed=1)
    assert not fuzzed.failures, fuzzed.failures
    assert fuzzed.cases > 20


@pytest.mark.slow
def test_two_thousand_made_up_requests_are_answered_as_documented(
    service: ServiceProcess, tmp_path: Path
) -> None:
    fuzzed = fuzz(service.url, tmp_path, ["coverage", "fuzzing", "stateful"], examples=5, seed=1)
    assert not fuzzed.failures, fuzzed.failures
    assert fuzzed.cases >= 2_000
    assert fuzzed.untested == 0
