"""The service as users run it: a process of its own behind a real socket."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
DEADLINE_SECONDS = 300


class ServiceProcess:
    """A running `python -m service`, and what it has logged."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self._log = folder / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", "--port", "0", *arguments],
                cwd=folder,
                env=clean_environment(),
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match in the log, as soon as there is one."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            running = self.process.poll() is None
            if found := re.search(pattern, self.log):
                return found
            assert running, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    @property
    def port(self) -> int:
        return int(self.wait_for(r"ready on http://\S+:(\d+)")[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def end(self, signum: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        self.process.send_signal(signum)
        return self.wait()

    def wait(self) -> int:
        """The exit status, once the process has ended."""
        return self.process.wait(DEADLINE_SECONDS)


@contextmanager
def running_service(folder: Path, *arguments: str) -> Iterator[ServiceProcess]:
    """A service that is started in this folder, and killed if it still runs at the end."""
    service = ServiceProcess(folder, arguments)
    try:
        yield service
    finally:
        service.process.kill()
        service.process.wait()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def clean_environment() -> dict[str, str]:
    """Ours without settings of the service, and with its packages on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEMORY_")}
    return kept | {"PYTHONPATH": str(REPOSITORY)}
