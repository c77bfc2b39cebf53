"""What breaks under a service that has work, each seen by clients that write meanwhile.

Each fault lasts for some seconds and gives figures of what clients saw. What must hold is asserted.
"""

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import httpx

from tests.neo4j_server import Neo4jServer
from tests.service_process import ServiceProcess, running_service
from tests.writers import Written, check_everything, check_sqlite, wait_for_writes, writing

DISK_MEGABYTES = 64
WRITES = 200  # before and after a fault


def fill_the_disk(bundle: Path, folder: Path, seconds: float) -> dict[str, object]:
    """The disk under SQLite is full for so long, and once more until the service has ended."""
    written = Written()
    with small_disk(folder) as disk:
        store = disk / "memory.db"
        flags = ("--model", str(bundle), "--store", f"sqlite:///{store}")
        with running_service(folder, *flags) as service:
            with writing(service.url, "a", written):
                wait_for_writes(written, WRITES)
                with full(disk):
                    figures = watch(service, written, seconds, reading=True)
                started = time.monotonic()
                wait_for_writes(written, 1)
                figures["seconds_to_recover"] = round(time.monotonic() - started, 2)
                wait_for_writes(written, WRITES)
            check_everything(service.url, written)
            with writing(service.url, "b", written), full(disk):
                watch(service, written, 0, reading=True)
                assert service.end() == 0
        with running_service(folder, *flags) as service:
            check_everything(service.url, written)
            assert service.end() == 0
        check_sqlite(store)
    return figures | what_clients_saw(written)


def take_neo4j_away(
    bundle: Path,
    folder: Path,
    server: Neo4jServer,
    how: Literal["killed", "stopped"],
    seconds: float,
) -> dict[str, object]:
    """The server ends, or does not answer any more, and is back after so long."""
    written = Written()
    with running_service(folder, "--model", str(bundle), "--store", server.uri) as service:
        with writing(service.url, how, written):
            wait_for_writes(written, WRITES)
            (server.kill if how == "killed" else server.pause)()
            figures = watch(service, written, seconds, reading=False)
            (server.start if how == "killed" else server.resume)()
            started = time.monotonic()
            wait_for_writes(written, 1)
            figures["seconds_to_recover"] = round(time.monotonic() - started, 2)
            wait_for_writes(written, WRITES)
        check_everything(service.url, written)
        assert httpx.get(f"{service.url}/health/ready", timeout=30).status_code == 200
        assert service.end() == 0
    return figures | what_clients_saw(written)


def watch(
    service: ServiceProcess, written: Written, seconds: float, *, reading: bool
) -> dict[str, object]:
    """What the service answers during a fault, from the first refusal on, for so long.

    It lives and embeds, says that it is not ready, and refuses what it cannot do.
    """
    started = time.monotonic()
    refused_before = len(written.refused)
    while len(written.refused) == refused_before:
        time.sleep(0.01)
    first = time.monotonic()
    acknowledged = len(written.acknowledged)
    looks = 0
    with httpx.Client(base_url=service.url, timeout=60) as client:
        while looks == 0 or time.monotonic() < first + seconds:
            looks += 1
            assert client.get("/health/live").status_code == 200
            ready = client.get("/health/ready")
            assert ready.status_code == 503, ready.text
            embedded = client.post("/v1/embeddings", json={"input": f"look {looks}"})
            assert embedded.status_code == 200, embedded.text
            if reading:
                search = {"query": f"the ferry town {looks}"}
                assert client.get("/memories").status_code == 200
                assert client.post("/memories/search", json=search).status_code == 200
            time.sleep(0.1)
    return {
        "seconds_to_first_refusal": round(first - started, 2),
        "seconds": round(time.monotonic() - first, 1),
        "looks": looks,
        "acknowledged_meanwhile": len(written.acknowledged) - acknowledged,
    }


def what_clients_saw(written: Written) -> dict[str, object]:
    statuses = Counter(response.status_code for response in written.refused)
    assert statuses.keys() == {503}, statuses
    assert all(int(response.headers["Retry-After"]) > 0 for response in written.refused)
    return {"acknowledged": len(written.acknowledged), "refused": len(written.refused)}


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, which takes root, or sudo without a password."""
    disk = folder / "disk"
    disk.mkdir()
    as_root = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    options = ("-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m")
    subprocess.run([*as_root, "mount", *options, "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run([*as_root, "umount", str(disk)], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """No byte is free on the disk, until the block is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    try:
        yield
    finally:
        filler.unlink()
