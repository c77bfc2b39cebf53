"""Behind a real nginx: links, clients' addresses, and services that are restarted one by one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event

import httpx
import pytest

from tests.deploy.nginx import running_nginx
from tests.service_process import ServiceProcess, free_port, running_service

pytestmark = pytest.mark.slow

CLIENTS = 6
BEHIND = ("--root-path", "/memory", "--trusted-proxies", "127.0.0.1")


@contextmanager
def serving(bundle: Path, folder: Path, port: int) -> Iterator[ServiceProcess]:
    """A service that is ready on this port."""
    flags = ("--model", str(bundle), "--port", str(port), *BEHIND)
    with running_service(folder, *flags) as service:
        assert httpx.get(f"{service.url}/health/ready").status_code == 200
        yield service


@pytest.fixture
def nginx(prompted_bundle: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, ServiceProcess]]:
    """A client of nginx, and the one service behind it."""
    with (
        serving(prompted_bundle, tmp_path, free_port()) as service,
        running_nginx(tmp_path / "nginx", [service.port]) as client,
    ):
        yield client, service


def test_links_lead_through_the_proxy(nginx: tuple[httpx.Client, ServiceProcess]) -> None:
    client, _ = nginx
    documentation = client.get("/memory/", follow_redirects=True)
    assert documentation.url.path == "/memory/docs"
    assert documentation.status_code == 200
    assert client.get("/memory/docs/openapi.json").json()["servers"] == [{"url": "/memory"}]
    remembered = client.post("/memory/memories", json={"content": "Ada prefers tea."})
    assert client.get(remembered.headers["location"]).json()["content"] == "Ada prefers tea."


def test_the_log_names_the_client_of_the_proxy(
    nginx: tuple[httpx.Client, ServiceProcess],
) -> None:
    client, service = nginx
    client.get("/memory/info", headers={"X-Forwarded-For": "203.0.113.9"})
    service.wait_for(r"route=/info .*client=203\.0\.113\.9")


def test_services_are_restarted_one_by_one_and_every_request_is_answered(
    prompted_bundle: Path, tmp_path: Path
) -> None:
    ports = [free_port(), free_port()]
    folders = [tmp_path / str(port) for port in ports]
    for folder in folders:
        folder.mkdir()
    done = Event()

    def send_until_done(client: httpx.Client, number: int) -> list[int]:
        statuses: list[int] = []
        while not done.is_set():
            text = f"client {number}, request {len(statuses)} " + "and more " * 20
            answer = client.post("/memory/v1/embeddings", json={"input": [text] * (number + 1)})
            statuses.append(answer.status_code)
        return statuses

    with ExitStack() as services, ThreadPoolExecutor(CLIENTS) as threads:
        running = [
            services.enter_context(serving(prompted_bundle, folder, port))
            for folder, port in zip(folders, ports, strict=True)
        ]
        client = services.enter_context(running_nginx(tmp_path / "nginx", ports))
        clients = [threads.submit(send_until_done, client, number) for number in range(CLIENTS)]
        try:
            for service, folder, port in zip(running, folders, ports, strict=True):
                service.wait_for(r"route=/v1/embeddings status=200")
                assert service.end() == 0, service.log
                services.enter_context(serving(prompted_bundle, folder, port))
        finally:
            done.set()
        for sent in clients:
            statuses = sent.result()
            assert len(statuses) > 1
            assert set(statuses) == {200}
