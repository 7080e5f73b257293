"""Has the C library give memory back: large values pass through, and without this their pages stay."""

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
THRESHOLD_BYTES: Final = 131072


def give_back_early() -> None:
    """Fix the thresholds that glibc would raise to the size of the largest value seen. Elsewhere nothing is done."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES)
    except (OSError, AttributeError):
        return
