"""Keeps the parent out of reach of the user's code, which runs under the same uid."""

import ctypes
from typing import Final

PR_SET_DUMPABLE: Final = 4


def set_dumpable(allowed: bool) -> None:
    """Allow or forbid to trace this process and to read its memory. Best effort: no Linux, nothing done."""
    try:
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_DUMPABLE, int(allowed), 0, 0, 0)
    except (OSError, AttributeError):
        return
