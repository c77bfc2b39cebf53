"""How the memory of the process is kept: what glibc hands back, and what lies in huge pages."""

import ctypes
import platform
import re
from pathlib import Path

_M_MMAP_THRESHOLD = -3  # malloc.h

# glibc's own limit at the start. Once it is given, glibc no longer raises it to what is freed.
_OWN_MAPPING_BYTES = 128 * 1024

_MADV_COLLAPSE = 25  # linux/mman.h, since 6.1; older kernels refuse it, and nothing changes
_HUGE_PAGE_BYTES = 2 * 1024 * 1024

# Of what no file stands behind: from, to, and the kilobytes of it that are there.
_MAPPING = re.compile(
    r"^(\w+)-(\w+) rw-p 0+ 00:00 0 *(?:\[heap\])?\n"
    r"Size:.*\n(?:\w+PageSize:.*\n)*Rss: +(\d+) kB",
    re.MULTILINE,
)

# A huge page is there as a whole: what is mapped and never used would be, too.
_FULL = 0.95


def keep_little() -> None:
    """Have large blocks go back to the system when they are freed, from here on.

    By itself glibc cuts blocks of up to 32 MB from its heaps, where a small one that stays behind
    holds what lies before it. Texts of many lengths, computed by several threads, then have a
    service grow for as long as it runs.
    """
    # Threads do not share heaps here (M_ARENA_MAX), as is often advised: parsing a tokenizer leaves
    # holes of 200 MB in that of its thread, which the others' large blocks would then fill.
    if _is_glibc():
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)


def return_freed() -> None:
    """Hand what was freed so far back to the system."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def move_to_huge_pages() -> None:
    """Put what fills its mapping into huge pages, where Linux can.

    Weights are read from end to end for every text, and their page tables with them: a short text
    alone takes 10 % less time when each entry is of 2 MB instead of 4 KB.
    """
    try:
        mappings = _MAPPING.findall(Path("/proc/self/smaps").read_text())
    except OSError:
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for first, end, kilobytes in mappings:
        start, stop = int(first, 16), int(end, 16)
        aligned_start = -(-start // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
        aligned_stop = stop // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES
        full = int(kilobytes) * 1024 >= _FULL * (stop - start)
        if full and aligned_start < aligned_stop:
            madvise(aligned_start, aligned_stop - aligned_start, _MADV_COLLAPSE)


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
