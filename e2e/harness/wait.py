"""Waiting for the cluster: poll with a deadline, and say all that is known when it passes."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class WaitedTooLongError(AssertionError):
    """The state asked for did not come; the text holds what was seen."""


def eventually(
    what: str,
    probe: Callable[[], T | None],
    timeout: float = 30,
    interval: float = 0.2,
    diagnose: Callable[[], str] | None = None,
) -> T:
    """Poll until `probe` gives something true and return that.

    Args:
        what: the state that is waited for, in words.
        probe: looked at every `interval` seconds; its errors end the wait.
        timeout: seconds until the wait is given up.
        interval: seconds between two looks.
        diagnose: tells the state of affairs when it is given up.

    Raises:
        WaitedTooLongError: with the diagnosis.
    """
    deadline = time.monotonic() + timeout
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            told = f"\n{diagnose()}" if diagnose else ""
            raise WaitedTooLongError(f"waited {timeout:.0f} s in vain for {what}; last seen: {found!r}{told}")
        time.sleep(interval)


def stays(what: str, probe: Callable[[], bool], seconds: float, interval: float = 0.25) -> None:
    """Check that `probe` holds at every look for `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not probe():
            raise AssertionError(f"{what} did not hold for {seconds:.0f} s")
        time.sleep(interval)
