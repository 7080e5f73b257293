"""The records of a run as the attempt sees them: what earlier attempts left, and the keys of this one. No I/O."""

import json
from typing import Final

from milepost.errors import StepKeyError
from milepost.sdk.failed import OURS, describe, rebuild
from milepost.sdk.run import MISSING, AttemptInfo
from milepost.sdk.scope import Failure, Scope, checked, scope
from milepost.values import Encoded, pack_within, read

RESERVED: Final = "~"


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
        return found

    def recorded_step(self, key: str, annotation: object) -> object:
        """Give what an earlier attempt recorded, and let go of it: a key is asked for once. Raises a step's error."""
        line = self._steps.pop(key, None)
        return MISSING if line is None else _value(line, annotation)

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
        line = self._checkpoints.get(checked(key))
        return MISSING if line is None else _value(line, annotation)

    def checkpointed(self, key: str, data: Encoded) -> None:
        """Remember a checkpoint of this attempt, once it is committed."""
        self._checkpoints[key] = (
            json.dumps({"types": data.types}).encode()[:-1] + b',"value":' + data.text.encode() + b"}"
        )

    def encode(self, value: object, what: str) -> Encoded:
        """Encode a record. Raises NotRecordableError, RecordTooLargeError."""
        return pack_within(value, self.attempt.max_record_bytes, what)


def _value(line: bytes, annotation: object) -> object:
    record = json.loads(line)
    if record.get("failed"):
        raise rebuild(record["value"])
    return read(record["value"], record.get("types"), annotation)
