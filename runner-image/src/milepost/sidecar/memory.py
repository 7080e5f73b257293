"""Has the C library give memory back: large values pass through, and without this their pages stay."""

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
MMAP_BYTES: Final = 524288
TRIM_BYTES: Final = 1048576
"""asyncio asks for 256 KiB for each thing that it reads: below the thresholds that is a pointer moved, above them it
is system calls and page faults for every step.
"""


def give_back_early() -> None:
    """Fix the thresholds that glibc would raise to the size of the largest value seen. Elsewhere nothing is done."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
    except (OSError, AttributeError):
        return
