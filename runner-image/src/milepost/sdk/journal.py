"""The records of a run as the attempt sees them: what earlier attempts left, and the keys of this one. No I/O."""

import json
from contextvars import ContextVar
from typing import Final

from milepost.errors import StepKeyError
from milepost.sdk.failed import OURS, describe, rebuild
from milepost.sdk.run import MISSING, AttemptInfo
from milepost.sdk.scope import Failure, Scope, checked, scope
from milepost.values import Encoded, pack_within, read
from milepost.wire.pod import MAX_KEY_BYTES
from milepost.wire.values import JSON

RESERVED: Final = "~"
TRIES: Final = "~retry/"
"""Checkpoints under such keys are ours: how often a step was tried."""


class Journal:
    """Shared by both kinds of context."""

    def __init__(self, attempt: AttemptInfo) -> None:
        self.attempt = attempt
        self._steps: dict[str, bytes] = {}
        self._checkpoints: dict[str, bytes] = {}
        self._used: set[str] = set()

    def load(self, line: bytes) -> None:
        """Take one line of GET /v1/records. It stays text until it is asked for."""
        if not line.strip():
            return
        record = json.loads(line)
        kept = self._steps if record["kind"] == "step" else self._checkpoints
        kept[record["key"]] = line

    def step_key(self, name: str, key: str | None) -> str:
        """Give the key of the step that is called here and now. Raises StepKeyError when it was used before."""
        here = scope.get(None) or Scope()
        if key is None:
            found = here.key(name)
        elif key.startswith(RESERVED):
            raise StepKeyError(f"a key can't begin with '~': {key!r}")
        else:
            found = here.note(checked(key))
        if found in self._used:
            raise StepKeyError(f"two steps of this run have the key {found!r}")
        self._used.add(found)
        if (body := retried.get(None)) is not None:
            body.used(found)
        return found

    def recorded_step(self, key: str, annotation: object) -> object:
        """Give what an earlier attempt recorded, and let go of it: a key is asked for once. Raises a step's error."""
        line = self._steps.pop(key, None)
        if line is None:
            return MISSING
        if (body := retried.get(None)) is not None:
            body.kept(key, line)
        return _value(line, annotation)

    def step_recorded(self, key: str, value: str, types: str | None = None, *, failed: bool = False) -> None:
        """Keep a record of this attempt where it may be asked for again: in the body of a step that is retried."""
        if (body := retried.get(None)) is not None:
            body.kept(key, _line(value, types, failed=failed))

    def again(self, body: "Retried") -> None:
        """Let the steps in a step's body be called anew, for its next try; what they recorded is kept."""
        keys, lines = body.take()
        self._used -= keys
        self._steps |= lines

    def tries(self, key: str) -> dict[str, JSON] | None:
        """Give what earlier attempts recorded of the tries of a step, once."""
        line = self._checkpoints.pop(tries_key(key), None)
        return None if line is None else json.loads(line)["value"]

    def step_failed(self, key: str, error: Exception) -> None:
        """Remember it for the next record of this branch; if there is none, the next attempt runs the step afresh."""
        if not isinstance(error, OURS):
            (scope.get(None) or Scope()).failures.append(Failure(key, describe(error)))

    def take_failures(self) -> list[tuple[str, str]]:
        """Give key and error of the steps that failed, and that this branch went on from, since its last record."""
        here = scope.get(None)
        return [] if here is None else here.take_failures()

    def restored(self, key: str, annotation: object) -> object:
        """Give the newest value checkpointed under a key, or MISSING."""
        line = self._checkpoints.get(own_key(key))
        return MISSING if line is None else _value(line, annotation)

    def checkpointed(self, key: str, data: Encoded) -> None:
        """Remember a checkpoint of this attempt, once it is committed."""
        self._checkpoints[key] = _line(data.text, data.types)

    def encode(self, value: object, what: str) -> Encoded:
        """Encode a record. Raises NotRecordableError, RecordTooLargeError."""
        return pack_within(value, self.attempt.max_record_bytes, what)


def own_key(key: str) -> str:
    """Check the key of a task's own checkpoint. Raises StepKeyError."""
    if key.startswith(TRIES):
        raise StepKeyError(f"a checkpoint's key can't begin with {TRIES!r}: {key[:80]!r}")
    return checked(key)


def tries_key(step_key: str) -> str:
    """Give the key of the checkpoint that holds a step's tries."""
    key = TRIES + step_key
    if len(key.encode()) <= MAX_KEY_BYTES:
        return key
    from hashlib import sha256  # noqa: PLC0415  (such keys are rare)

    return TRIES + sha256(step_key.encode()).hexdigest()


class Retried:
    """Keys and records of the steps that were called in the body of a step that is retried."""

    def __init__(self) -> None:
        self._outer = retried.get(None)
        self._keys: set[str] = set()
        self._lines: dict[str, bytes] = {}

    def used(self, key: str) -> None:
        self._keys.add(key)
        if self._outer is not None:
            self._outer.used(key)

    def kept(self, key: str, line: bytes) -> None:
        self._lines[key] = line
        if self._outer is not None:
            self._outer.kept(key, line)

    def take(self) -> tuple[set[str], dict[str, bytes]]:
        """Give all, and forget it."""
        taken = self._keys, self._lines
        self._keys, self._lines = set(), {}
        return taken


retried: ContextVar[Retried] = ContextVar("milepost_retried")


def _line(value: str, types: str | None, *, failed: bool = False) -> bytes:
    return json.dumps({"types": types, "failed": failed}).encode()[:-1] + b',"value":' + value.encode() + b"}"


def _value(line: bytes, annotation: object) -> object:
    record = json.loads(line)
    if record.get("failed"):
        raise rebuild(record["value"])
    return read(record["value"], record.get("types"), annotation)
