"""Warns of code that blocks the event loop: a thread asks the loop for a sign of life, and looks where it stands."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Final

from milepost.runner.log import say
from milepost.sdk.fingerprint import OWN_CODE

SECONDS_ENV: Final = "MILEPOST_BLOCKED_SECONDS"
SECONDS: Final = 1.0
MOST_TOLD: Final = 20
PYTHON: Final = (f"{os.path.dirname(os.__file__)}/", "<frozen ")  # noqa: PTH120
LIBRARIES: Final = ("/site-packages/", "/dist-packages/")
LOOP_FILES: Final = ("/selectors.py", "/asyncio/base_events.py", "/asyncio/events.py", "/asyncio/selector_events.py")


def blocked_seconds(env: Mapping[str, str]) -> float:
    """Give the seconds after which a blocked loop is told of; 0: never."""
    text = env.get(SECONDS_ENV, "")
    try:
        found = float(text or SECONDS)
    except ValueError:
        found = -1.0
    if 0 <= found < threading.TIMEOUT_MAX:
        return found
    say(f"{SECONDS_ENV}={text!r} is no number of seconds, 0 or more: it is {SECONDS:g} now")
    return SECONDS


class Watchdog:
    """Watches the loop that it is made in. Each line is told of once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._thread = threading.get_ident()
        self._asked = self._answered = 0
        self._told: set[str] = set()
        self._over = threading.Event()
        if seconds > 0:
            threading.Thread(target=self._watch, name="milepost-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer."""
        self._over.set()

    def _answer(self, asked: int) -> None:
        self._answered = asked

    def _watch(self) -> None:
        since = 0.0
        while not self._over.wait(self._seconds / 2):
            now = time.monotonic()
            if self._answered == self._asked:
                since, self._asked = now, self._asked + 1
                try:
                    self._loop.call_soon_threadsafe(self._answer, self._asked)
                except RuntimeError:  # it is closed
                    return
            elif now - since >= self._seconds:
                self._look(now - since)

    def _look(self, seconds: float) -> None:
        stack = _stack(sys._current_frames().get(self._thread))  # noqa: SLF001
        if self._answered == self._asked or len(self._told) >= MOST_TOLD:
            return  # it went on meanwhile: what was seen may be innocent
        place = blocking_line(stack)
        if place is None or place in self._told:
            return
        self._told.add(place)
        say(
            f"the event loop has been blocked for {seconds:.1f} s at {place}: no branch goes on and a cancel is not "
            "heard; await something that does not block, or run it in a thread (a step of a plain function does)"
        )


def blocking_line(stack: list[tuple[str, int, str]]) -> str | None:
    """Give the user's innermost line of a stack (file, line and function, innermost first), and what it called.

    None: the loop itself is innermost, so it waits for events or has just gone on.
    """
    if not stack or (stack[0][0].startswith(PYTHON) and stack[0][0].endswith(LOOP_FILES)):
        return None
    ranks = [_rank(file) for file, _, _ in stack]
    if (best := min(ranks)) > 1:
        return None
    file, line, function = stack[ranks.index(best)]
    place = f"{file}:{line} in {function}"
    return place if ranks[0] == best else f"{place} (in {stack[0][2]} of {stack[0][0]})"


def _rank(file: str) -> int:
    """0: of the user, 1: of a library, 2: of Python or ours."""
    if file.startswith(OWN_CODE):
        return 2
    if any(part in file for part in LIBRARIES):
        return 1
    return 2 if file.startswith(PYTHON) else 0


def _stack(frame: FrameType | None) -> list[tuple[str, int, str]]:
    found = []
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname))
        frame = frame.f_back
    return found
