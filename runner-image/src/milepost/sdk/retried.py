"""The steps in the body of a step that is retried: they are called anew, and keep what they recorded."""

from contextvars import ContextVar
from typing import Final

from milepost.wire.wait import MAX_KEY_BYTES

TRIES: Final = "~retry/"
"""Checkpoints under such keys are ours: how often a step was tried."""


class Retried:
    """Keys and records of the steps that were called in the body of a step that is retried."""

    def __init__(self) -> None:
        self._outer = retried.get(None)
        self._keys: set[str] = set()
        self._lines: dict[str, tuple[bytes, str | None]] = {}

    def used(self, key: str) -> None:
        self._keys.add(key)
        if self._outer is not None:
            self._outer.used(key)

    def kept(self, key: str, line: tuple[bytes, str | None]) -> None:
        self._lines[key] = line
        if self._outer is not None:
            self._outer.kept(key, line)

    def take(self) -> tuple[set[str], dict[str, tuple[bytes, str | None]]]:
        """Give all, and forget it."""
        taken = self._keys, self._lines
        self._keys, self._lines = set(), {}
        return taken


retried: ContextVar[Retried] = ContextVar("milepost_retried")


def tries_key(step_key: str) -> str:
    """Give the key of the checkpoint that holds a step's tries."""
    key = TRIES + step_key
    if len(key.encode()) <= MAX_KEY_BYTES:
        return key
    from hashlib import sha256  # noqa: PLC0415  (such keys are rare)

    return TRIES + sha256(step_key.encode()).hexdigest()
