"""What glibc keeps of the memory that was freed; other C libraries do as they do."""

import ctypes
import platform

_M_MMAP_THRESHOLD = -3  # malloc.h

# glibc's own limit at the start. Once it is given, glibc no longer raises it to what is freed.
_OWN_MAPPING_BYTES = 128 * 1024


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


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
