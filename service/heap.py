"""What glibc keeps of the memory that was freed; other C libraries do as they do.

By itself it keeps most: for each thread that allocates it has a heap of its own, and blocks of up
to 32 MB are cut from these, where a small one that stays behind holds what lies before it. Texts of
many lengths, computed by several threads, then have a service grow for as long as it runs.
"""

import ctypes
import platform

# malloc.h
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8

# glibc's own limit at the start. Once it is given, glibc no longer raises it to what is freed.
_OWN_MAPPING_BYTES = 128 * 1024

_HEAPS = 2


def keep_little() -> None:
    """Have large blocks go back to the system when they are freed, and threads share few heaps.

    For a process that stays; to be called before it starts threads.
    """
    if _is_glibc():
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)
        libc.mallopt(_M_ARENA_MAX, _HEAPS)


def return_freed() -> None:
    """Hand what was freed so far back to the system."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
