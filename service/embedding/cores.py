"""How many processor cores this process may compute on."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """The cores that the process may run on, at most its CPU quota rounded up, and at least one.

    Two hardware threads of one core count once: they share what multiplies. `root` is where /proc
    and /sys are.
    """
    return max(1, math.ceil(min(len(_own_cores(root)), cpu_quota(root))))


def cpu_quota(root: Path = _ROOT) -> float:
    """How many CPUs' time the control groups of the process grant it; infinite without a limit."""
    return min((_quota_in(folder) for folder in _control_groups(root)), default=math.inf)


def _own_cores(root: Path) -> set[str]:
    try:
        cpus = os.sched_getaffinity(0)
    except AttributeError:  # not on Linux
        cpus = set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in cpus:
        siblings = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        try:
            cores.add(siblings.read_text())
        except OSError:
            cores.add(f"{cpu}")
    return cores


def _control_groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that the process is in, of both versions, and of their parents.

    A container often sees its own group as the top, under a path that is that of the host: then
    the folders of the path are missing, and the top has the limit.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = top / path.lstrip("/")
        yield from (group, *(parent for parent in group.parents if parent.is_relative_to(top)))


def _quota_in(folder: Path) -> float:
    with suppress(OSError):
        quota, period = (folder / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with suppress(OSError):
        microseconds = int((folder / "cpu.cfs_quota_us").read_text())
        period_microseconds = int((folder / "cpu.cfs_period_us").read_text())
        return math.inf if microseconds < 0 else microseconds / period_microseconds
    return math.inf
