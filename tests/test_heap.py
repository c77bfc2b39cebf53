"""Each in a process of its own, since it changes the whole of it.

They hold for glibc, and for Linux from 6.1 on.
"""

import subprocess
import sys

from tests.service_process import REPOSITORY

MEGABYTE = 1024 * 1024

BEFORE = """
import ctypes
from pathlib import Path
from service.heap import keep_little, move_to_huge_pages, return_freed

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def taken(size):
    block = libc.malloc(ctypes.c_size_t(size))
    libc.memset(block, 1, size)
    return block

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def in_huge_pages():
    rolled_up = Path("/proc/self/smaps_rollup").read_text().split()
    return int(rolled_up[rolled_up.index("AnonHugePages:") + 1]) * 1024

def free_all_but_small_ones(pairs):
    for large, small in pairs:
        libc.free(large)

libc.free(taken(31 << 20))  # from here on glibc cuts blocks of up to this size from its heaps
"""

KEPT_BY_SMALL_ONES = """
before = resident()
pairs = [(taken(1 << 20), taken(1 << 16)) for _ in range(100)]
free_all_but_small_ones(pairs)
"""


def run(script: str) -> int:
    """The number that the script prints."""
    command = [sys.executable, "-c", BEFORE + script]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return int(ran.stdout)


def test_large_blocks_go_back_to_the_system_when_they_are_freed() -> None:
    kept = run("keep_little()" + KEPT_BY_SMALL_ONES + "print(resident() - before)")
    assert kept < 15 * MEGABYTE


def test_what_was_freed_before_goes_back_on_request() -> None:
    given_back = run(
        KEPT_BY_SMALL_ONES + "kept = resident(); return_freed(); print(kept - resident())"
    )
    assert given_back > 95 * MEGABYTE


def test_what_fills_its_mapping_moves_to_huge_pages_and_stays_the_same() -> None:
    moved = run("""
block = taken(64 << 20)
move_to_huge_pages()
assert ctypes.string_at(block, 64 << 20) == bytes([1]) * (64 << 20)
print(in_huge_pages())
""")
    assert moved >= 60 * MEGABYTE


def test_what_is_mapped_and_not_used_takes_no_memory_by_it() -> None:
    more = run("""
block = libc.malloc(ctypes.c_size_t(64 << 20))
for megabyte in range(64):
    libc.memset(block + (megabyte << 20), 1, 1)
before = resident()
move_to_huge_pages()
print(resident() - before)
""")
    assert more < 4 * MEGABYTE
