import math
import os
from pathlib import Path

import pytest

from service.embedding.cores import cpu_quota, usable_cores


def machine(root: Path, files: dict[str, str]) -> Path:
    """A folder that holds these files below /proc and /sys."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


VERSION_2 = "0::/\n"
VERSION_1 = "3:cpuset:/\n2:cpu,cpuacct:/\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("content", "cpus"), [("200000 100000\n", 2), ("50000 100000\n", 0.5), ("max 100000\n", None)]
)
def test_the_quota_is_that_of_the_control_group(
    tmp_path: Path, content: str, cpus: float | None
) -> None:
    files = {"proc/self/cgroup": VERSION_2, "sys/fs/cgroup/cpu.max": content}
    assert cpu_quota(machine(tmp_path, files)) == (cpus or math.inf)


@pytest.mark.parametrize(("microseconds", "cpus"), [("250000\n", 2.5), ("-1\n", None)])
def test_the_quota_is_found_in_the_first_version_too(
    tmp_path: Path, microseconds: str, cpus: float | None
) -> None:
    files = {
        "proc/self/cgroup": VERSION_1,
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": microseconds,
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    }
    assert cpu_quota(machine(tmp_path, files)) == (cpus or math.inf)


def test_the_least_of_a_group_and_its_parents_holds(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/system.slice/memory.service\n",
        "sys/fs/cgroup/system.slice/cpu.max": "300000 100000\n",
        "sys/fs/cgroup/system.slice/memory.service/cpu.max": "max 100000\n",
    }
    assert cpu_quota(machine(tmp_path, files)) == 3


def test_a_path_of_the_host_leads_to_the_containers_own_top(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/docker/0123456789ab\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
    }
    assert cpu_quota(machine(tmp_path, files)) == 1.5


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == math.inf


def test_a_quota_below_one_cpu_leaves_one_core(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": VERSION_2, "sys/fs/cgroup/cpu.max": "10000 100000\n"}
    assert usable_cores(machine(tmp_path, files)) == 1


def test_a_quota_is_rounded_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    files = {"proc/self/cgroup": VERSION_2, "sys/fs/cgroup/cpu.max": "250000 100000\n"}
    assert usable_cores(machine(tmp_path, files)) == 3


def test_two_hardware_threads_of_a_core_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 4, 5})
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    pairs = {0: "0,4", 1: "1,5", 2: "2,6", 4: "0,4", 5: "1,5"}
    files = {topology.format(cpu): siblings for cpu, siblings in pairs.items()}
    assert usable_cores(machine(tmp_path, files)) == 3


def test_where_nothing_is_known_of_the_processor_each_cpu_is_a_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3})
    assert usable_cores(tmp_path) == 2


def test_where_the_affinity_is_unknown_all_cpus_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cores(tmp_path) == 5
