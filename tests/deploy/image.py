"""The image of deploy/Dockerfile, built and run without a container engine.

Its instructions are carried out in a folder that becomes the root of a process with namespaces of
its own: mounts, process ids, network. What the base image brings, which cannot be had here, is this
machine's: /usr and /etc, and this Python in place of /usr/local. Needs root, if only by sudo.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.service_process import DEADLINE_SECONDS, REPOSITORY

DOCKERFILE = REPOSITORY / "deploy" / "Dockerfile"

SUDO = ["sudo"] if os.geteuid() else []

# The official image has its Python's library in the cache of the loader.
BASE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LD_LIBRARY_PATH": "/usr/local/lib"}

# Makes the mounts of a folder that is to be the root, and runs a command in it as process 1.
_IN_ROOT = """
set -e
root=$1 python=$2 mode=$3 user=$4
shift 4
mount --bind "$root" "$root"
for place in usr etc; do
  mount --rbind "/$place" "$root/$place"
  mount -o remount,bind,ro "$root/$place"
done
mount --bind "$python" "$root/usr/local"
mount -o remount,bind,ro "$root/usr/local"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
while [ "$1" != -- ]; do
  mount --bind "${1%%:*}" "$root${1#*:}"
  shift
done
shift
mount -o "remount,bind,$mode" "$root"
exec chroot --userspec="$user" --groups= "$root" /usr/bin/env -i "$@"
"""


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, on one line."""

    name: str
    value: str


class Stage(NamedTuple):
    """A stage of a Dockerfile."""

    base: str
    instructions: list[Instruction]


def stages() -> dict[str, Stage]:
    """The stages of the Dockerfile by their names, and what ARG gives before the first as base."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = filter(None, map(str.strip, re.sub(r"\\\n\s*", "", text).splitlines()))
    instructions = [Instruction(*line.split(maxsplit=1)) for line in lines]
    arguments: dict[str, str] = {}
    found: dict[str, Stage] = {}
    current: list[Instruction] = []
    for name, value in instructions:
        if name == "FROM":
            base, _, stage = value.split()
            base = re.sub(r"\$\{(\w+)\}", lambda argument: arguments[argument[1]], base)
            current = []
            found[stage] = Stage(base, current)
        elif name == "ARG" and not found:
            argument, _, default = value.partition("=")
            arguments[argument] = default
        else:
            current.append(Instruction(name, value))
    return found


class Image:
    """What a target is: files under `root`, and how they are run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = dict(BASE_ENVIRONMENT)
        self.user = "0:0"
        self.entrypoint: list[str] = []
        self.healthcheck: list[str] = []

    @contextmanager
    def running(
        self, arguments: Sequence[str], volumes: Mapping[Path, str], **variables: str
    ) -> Iterator["Container"]:
        """The entry point with these arguments, on a root that cannot be written."""
        environment = self.environment | variables
        command = _in_root(
            self.root,
            environment,
            [*self.entrypoint, *arguments],
            user=self.user,
            volumes=volumes,
        )
        log = self.root.with_suffix(".log")
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file)
        container = Container(self, process, log, environment)
        try:
            yield container
        finally:
            if process.poll() is None:
                container.send("KILL")
                process.wait(DEADLINE_SECONDS)


class Container:
    """A process that runs in an image."""

    def __init__(
        self,
        image: Image,
        process: "subprocess.Popen[bytes]",
        log: Path,
        environment: dict[str, str],
    ) -> None:
        self.image = image
        self.process = process
        self._log = log
        self._environment = environment

    @property
    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text()

    @property
    def user_id(self) -> int:
        """Whose process it is, seen from outside."""
        return psutil.Process(self._first()).uids().real

    def send(self, signal: str) -> None:
        """Send a signal to its first process."""
        subprocess.run([*SUDO, "kill", f"-{signal}", str(self._first())], check=True)

    def is_healthy(self) -> bool:
        """Whether the image's health check succeeds, now."""
        user, group = self.image.user.split(":")
        places = ["--mount", "--pid", "--net", "--root", "--setuid", user, "--setgid", group]
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        inside = ["/usr/bin/env", "-i", *variables, *self.image.healthcheck]
        return self._enter([*places, "--", *inside]).returncode == 0

    def wait_until_healthy(self) -> None:
        """Ask again and again, as an engine does."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self.is_healthy():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.2)

    def curl(self, *arguments: str) -> str:
        """What curl prints, on this machine but in the container's network."""
        done = self._enter(["--net", "--", "curl", "--silent", "--fail", *arguments])
        assert done.returncode == 0, self.log
        return done.stdout

    def _enter(self, arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        command = [*SUDO, "nsenter", "--target", str(self._first()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _first(self) -> int:
        while self.process.poll() is None:
            if children := psutil.Process(self.process.pid).children(recursive=True):
                return children[-1].pid
            time.sleep(0.02)
        raise AssertionError(self.log)


def build(target: str, folder: Path) -> Image:
    """The image of a target of the Dockerfile; its stages are made in this folder."""
    stage = stages()[target]
    image = Image(folder / target)
    if stage.base in stages():
        base = build(stage.base, folder)
        image.environment |= base.environment
        image.user, image.entrypoint = base.user, base.entrypoint
        image.healthcheck = base.healthcheck
        subprocess.run([*SUDO, "cp", "--archive", str(base.root), str(image.root)], check=True)
    else:
        _empty_root(image.root)
    for instruction in stage.instructions:
        _carry_out(instruction, image, folder)
    return image


def _carry_out(instruction: Instruction, image: Image, folder: Path) -> None:
    name, value = instruction
    match name:
        case "COPY":
            source, destination = value.split()[-2:]
            origin = REPOSITORY
            if stage := re.match(r"--from=(\S+)", value):
                origin = build(stage[1], folder).root
            _copy(origin / source.lstrip("/"), image.root, destination)
        case "RUN":
            pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
            shell = ["/bin/sh", "-c", value]
            command = _in_root(image.root, image.environment | pip, shell, building=True)
            subprocess.run(command, check=True)
        case "ENV":
            image.environment |= dict(re.findall(r"(\w+)=(\S+)", value))
        case "USER":
            image.user = value
        case "ENTRYPOINT":
            image.entrypoint = json.loads(value)
        case "HEALTHCHECK":
            image.healthcheck = json.loads(value.partition("CMD")[2])
        case "WORKDIR":
            assert value == "/", "only the root is supported here"
        case "ARG" | "LABEL" | "VOLUME" | "EXPOSE":
            pass
        case _:
            raise NotImplementedError(name)


def _copy(source: Path, root: Path, destination: str) -> None:
    target = root / destination.lstrip("/")
    if destination.endswith("/"):
        target = target / source.name
    parent = str(target.parent)
    subprocess.run([*SUDO, "mkdir", "--parents", parent], check=True)
    subprocess.run([*SUDO, "cp", "--archive", "--no-target-directory", source, target], check=True)


def _empty_root(root: Path) -> None:
    for place in ("usr", "etc", "dev", "proc", "tmp"):
        (root / place).mkdir(parents=True)
    root.chmod(0o755)
    for place in ("bin", "lib", "lib64", "sbin"):
        if Path("/", place).exists():
            (root / place).symlink_to(f"usr/{place}")


def _in_root(
    root: Path,
    environment: Mapping[str, str],
    command: Sequence[str],
    *,
    user: str = "0:0",
    volumes: Mapping[Path, str] | None = None,
    building: bool = False,
) -> list[str]:
    """A command that runs another in this root: to build, with the network and writing files."""
    loopback = "" if building else "ip link set lo up\n"
    return [
        *(*SUDO, "unshare", "--mount", "--pid", "--fork", "--kill-child"),
        *([] if building else ["--net"]),
        *("bash", "-c", loopback + _IN_ROOT, "bash"),
        *(str(root), sys.base_prefix, "rw" if building else "ro", user),
        *(f"{folder}:{place}" for folder, place in (volumes or {}).items()),
        "--",
        *(f"{name}={value}" for name, value in environment.items()),
        *command,
    ]
