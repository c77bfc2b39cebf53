"""The files in deploy/ name what there is, and agree with each other and with the service."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from litestar import Litestar
from litestar.testing import TestClient
from packaging.specifiers import SpecifierSet

import service
from service.settings import Settings, variable_of
from tests.deploy.image import stages
from tests.neo4j_server import VERSIONS
from tests.service_process import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
FILES = [path for path in DEPLOY.rglob("*") if path.is_file()]
TEXT = "\n".join(path.read_text() for path in FILES)
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def manifests(kind: str) -> list[Any]:
    """All manifests of a kind."""
    files = [yaml.safe_load_all(path.read_text()) for path in KUBERNETES.glob("*.yaml")]
    return [manifest for file in files for manifest in file if manifest.get("kind") == kind]


def pod() -> Any:
    """What a pod of the service is."""
    return manifests("Deployment")[0]["spec"]["template"]["spec"]


def container() -> Any:
    return pod()["containers"][0]


def instructions(name: str) -> str:
    """What the image for the processor has under an instruction's name."""
    chain = [stages()["cpu"], stages()["service"]]
    return "\n".join(one.value for stage in chain for one in stage.instructions if one.name == name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_setting_that_is_named_exists(path: Path) -> None:
    known = {variable_of(name) for name in Settings.__struct_fields__}
    assert set(re.findall(r"\bMEMORY_[A-Z_]+[A-Z]", path.read_text())) <= known


def test_each_route_that_is_asked_for_exists(client: TestClient[Litestar]) -> None:
    asked = set(re.findall(r"(?::\d+|path: |localhost)(/[a-z/-]+)", TEXT))
    assert {"/health/live", "/health/ready"} <= asked
    for path in asked:
        assert client.get(path).status_code in (200, 405), path


def test_each_metric_that_is_scaled_by_exists(client: TestClient[Litestar]) -> None:
    exposed = set(re.findall(r"# TYPE (\w+)", client.get("/metrics").text))
    scaled_by = "\n".join(path.read_text() for path in KUBERNETES.iterdir())
    named = set(re.findall(r"\bmemory_[a-z_]+", scaled_by))
    assert "memory_queued_tokens" in named <= exposed


def test_the_base_image_has_the_newest_python_that_is_supported() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    supported = SpecifierSet(project["requires-python"])
    major, minor = map(int, re.findall(r"\d+", stages()["service"].base)[:2])
    assert f"{major}.{minor}" in supported
    assert f"{major}.{minor + 1}" not in supported


def test_the_image_is_of_this_version_everywhere() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert f'image.version="{service.__version__}"' in instructions("LABEL")
    assert kustomization["images"][0]["newTag"] == service.__version__
    assert container()["image"] == f"{kustomization['images'][0]['name']}:{service.__version__}"


def test_neo4j_is_the_version_that_is_tested() -> None:
    images = re.findall(r"image: (neo4j\S+)", TEXT)
    assert len(images) == 2
    assert set(images) == {f"neo4j:{VERSIONS[-1]}-community"}


def test_what_the_image_copies_is_all_that_docker_is_given() -> None:
    given = re.findall(r"^!(\S+)", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE)
    copied = [
        one.value.split()[0]
        for stage in stages().values()
        for one in stage.instructions
        if one.name == "COPY" and not one.value.startswith("--from")
    ]
    assert sorted(given) == sorted(copied)


def test_kubernetes_runs_the_image_as_its_own_user_on_its_own_port() -> None:
    context = pod()["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == instructions("USER")
    assert str(container()["ports"][0]["containerPort"]) == instructions("EXPOSE")
    assert instructions("EXPOSE") == str(Settings().port)


def test_nothing_is_killed_before_its_requests_had_their_time() -> None:
    settings = dict(
        line.split("=", 1) for line in (KUBERNETES / "settings.env").read_text().splitlines()
    )
    grace = int(settings["MEMORY_SHUTDOWN_GRACE_SECONDS"])
    delay = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["terminationGracePeriodSeconds"] > delay + grace
    stop = COMPOSE["services"]["service"]["stop_grace_period"]
    assert int(stop.removesuffix("s")) > Settings().shutdown_grace_seconds


def test_the_autoscaler_asks_for_what_the_adapter_gives() -> None:
    (autoscaler,) = manifests("HorizontalPodAutoscaler")
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
    asked = autoscaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert adapter["rules"]["custom"][0]["seriesQuery"].startswith(f"{asked}{{")


def test_everything_for_kubernetes_is_in_the_kustomization() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    others = {"kustomization.yaml", "prometheus.yaml", "prometheus-adapter.yaml"}
    assert {path.name for path in KUBERNETES.glob("*.yaml")} - others == set(
        kustomization["resources"]
    )
