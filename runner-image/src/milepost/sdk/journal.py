"""The records of a run as the attempt sees them: what earlier attempts left, and the keys of this one. No I/O."""

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from milepost.errors import ChangedCodeError, NotAwaitedError, StepKeyError, ValueMismatchError
from milepost.net.messages import unique_id
from milepost.sdk import fingerprint
from milepost.sdk.failed import OURS, describe, rebuild
from milepost.sdk.local import checkpoint_target, step_target
from milepost.sdk.retried import TRIES, Retried, retried, tries_key
from milepost.sdk.run import MISSING, AttemptInfo
from milepost.sdk.scope import Branches, Failure, Scope, branch_of, checked, scope
from milepost.values import Encoded, pack_within, read
from milepost.wire.local import VALUE
from milepost.wire.values import JSON

if TYPE_CHECKING:
    from milepost.sdk.layout import Migrate

RESERVED: Final = "~"
LAYOUT: Final = "~layout/"
"""A checkpoint under such a key tells the layout of the records after it."""
FIRST_LAYOUT: Final = 1
logger: Final = logging.getLogger("milepost.task")
_decode: Final = json.JSONDecoder().raw_decode


class StepCall(NamedTuple):
    """A step as it is called here and now. `position`: in its branch, from 1; 0: it has none."""

    key: str
    fingerprint: str
    prefix: str
    position: int


class Journal:
    """Shared by both kinds of context. `changed`: the first record that no longer matches; no step runs after it.
    `forgotten`: the first call that nobody awaited; no step runs after it, either.
    """

    def __init__(self, attempt: AttemptInfo) -> None:
        self.attempt = attempt
        self.changed: ChangedCodeError | None = None
        self.forgotten: NotAwaitedError | None = None
        self.branches = Branches()
        self.layout = FIRST_LAYOUT
        self._older: list[tuple[int, dict[str, tuple[bytes, str | None]], dict[str, bytes]]] = []
        self._taken: set[str] = set()
        self._accepts = attempt.on_change == "accept"
        self._steps: dict[str, tuple[bytes, str | None]] = {}
        self._places: dict[tuple[str, int], str] | None = None
        self._checkpoints: dict[str, bytes] = {}
        self._used: set[str] = set()
        self._away: dict[bytes, str] = {}

    def load(self, line: bytes) -> None:
        """Take one line of GET /v1/records. It stays text until it is asked for."""
        if not line.strip():
            return
        head, before_value, _ = line.partition(VALUE)
        record, _ = _decode((head + b"}" if before_value else line).decode())
        if "object_bytes" in record:
            target = step_target if record["kind"] == "step" else checkpoint_target
            self._away[line] = target(record["key"])
        if record["kind"] != "step":
            if record["key"].startswith(LAYOUT):
                self._begin_layout(json.loads(line)["value"])
            else:
                self._checkpoints[record["key"]] = line
            return
        key, told = self._key_of(record["key"]), record.get("fingerprint")
        if self.attempt.replay and record["attempt"] == 0:
            told = None  # a replay may have another input than the run whose records it begins with
        self._steps[key] = line, told
        if told and "@" in told:
            self.branches.recorded[branch_of(key)] = fingerprint.branch(told)

    def step_away(self, key: str) -> str | None:
        """Where to ask for the value of a step's record that is not in its line; None: it is, or there is no record."""
        return self._away.get(self._steps[key][0]) if self._away and key in self._steps else None

    def checkpoint_away(self, key: str) -> str | None:
        """The same for a checkpoint."""
        return self._away.get(self._checkpoints[key]) if self._away and key in self._checkpoints else None

    def all_away(self, layout: int) -> list[str]:
        """Where to ask for all that a migration to this layout may read and is not in its line."""
        return list(self._away.values()) if self._older or self.layout != layout else []

    def bring(self, target: str, value: bytes) -> None:
        """Take what was asked for into its line; two branches may have asked at once."""
        line = next((away for away, place in self._away.items() if place == target), None)
        if line is None:
            return
        del self._away[line]
        whole = b'%b,"value":%b}' % (line.rstrip()[:-1], value)
        for _, steps, checkpoints in [*self._older, (self.layout, self._steps, self._checkpoints)]:
            steps.update({key: (whole, told) for key, (found, told) in steps.items() if found is line})
            checkpoints.update({key: whole for key, found in checkpoints.items() if found is line})

    def _begin_layout(self, layout: int) -> None:
        """What was recorded up to here is of the layout before."""
        if layout != self.layout:
            self._older.append((self.layout, self._steps, self._checkpoints))
            self._taken.update(self._steps)
            self.layout, self._steps, self._checkpoints = layout, {}, {}
            self.branches.recorded.clear()

    def _key_of(self, stored: str) -> str:
        key = stored.removesuffix(f">~{self.layout}")
        return key if key in self._taken else stored

    def stored(self, key: str) -> str:
        """Give the key that a step is kept under: one of its own where an older layout has a record of the key."""
        return f"{key}>~{self.layout}" if key in self._taken else key

    def arrive(self, layout: int, migrate: "Migrate | None") -> bool:
        """Take the records over for code of a layout; whether the run has to be told that its records are of it now.

        Raises ChangedCodeError when they can't be, and what `migrate` raises.
        """
        recorded, self.layout = self.layout, layout
        if self._older or recorded != layout:
            from milepost.sdk.layout import Part, merged  # noqa: PLC0415  (most tasks keep to their layout)

            if recorded != layout:
                self._taken.update(self._steps)
            parts = [Part(*older) for older in self._older]
            now = Part(recorded, self._steps, self._checkpoints)
            try:
                whole = merged([*parts, now], layout, migrate, accepts=self._accepts)
            except ChangedCodeError as error:
                self.changed = error
                raise
            self._older, self._steps, self._checkpoints = [], whole.steps, whole.checkpoints
        return recorded != layout

    def root(self) -> Scope:
        """Give the scope of the task's own body."""
        made = Scope()
        made.branches = self.branches
        return made

    def call(
        self, name: str, key: str | None, fn: object, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> StepCall:
        """Give the step that is called here and now.

        Raises:
            StepKeyError: its name or key can't be used, or was used before.
            ChangedCodeError: an earlier call of this attempt did not match its record.
            NotAwaitedError: an earlier call of this attempt was not awaited.
        """
        here = scope.get(None)
        self.check_intact()
        if self.branches.differs is not None:
            self._check_branch(*self.branches.differs)
        arguments = fingerprint.of_arguments(fn, args, kwargs)
        if key is not None:
            if key.startswith(RESERVED):
                raise StepKeyError(f"a key can't begin with '~': {key!r}")
            return self._once(StepCall(checked(key), fingerprint.keyed(name, arguments), "", 0))
        if here is None:  # a thread of the user's: it is in no branch
            return self._once(StepCall(Scope().key(name), fingerprint.placed(0, "", arguments), "", 0))
        found = here.key(name)
        position = 0 if here.loose else here.position
        told = fingerprint.placed(position, here.function if position == 1 else "", arguments)
        return self._once(StepCall(found, told, here.prefix, position))

    def _once(self, call: StepCall) -> StepCall:
        if call.key in self._used:
            raise StepKeyError(f"two steps of this run have the key {call.key!r}")
        self._used.add(call.key)
        if (body := retried.get(None)) is not None:
            body.used(call.key)
        return call

    def recorded_step(self, call: StepCall, annotation: object) -> object:
        """Give what an earlier attempt recorded, and let go of it: a key is asked for once. MISSING: it is to run.

        Raises the error that the step failed with, or:
            ChangedCodeError: the records of the run are of other code.
        """
        line, told = self._steps.pop(call.key, (None, None))
        if line is None:
            if self._steps and call.position:
                self._check_place(call)
            return MISSING
        if (body := retried.get(None)) is not None:
            body.kept(call.key, (line, told))
        if told and told != call.fingerprint:
            self._compare(call, told)
        record, _ = _decode(line.decode())
        if record.get("failed"):
            raise rebuild(record["value"])
        try:
            return _value(record, annotation)
        except ValueMismatchError as error:
            from milepost.sdk import changed  # noqa: PLC0415  (code that did not change never pays for it)

            self.changed = changed.value(call.key, error)
            raise self.changed from error

    def _check_place(self, call: StepCall) -> None:
        if self._places is None:  # what was served by now is where it was
            told = ((key, fingerprint.place(text)) for key, (_, text) in self._steps.items() if text)
            self._places = {(branch_of(key), position): key for key, position in told if position}
        other = self._places.get((call.prefix, call.position))
        if other is not None and other != call.key:
            from milepost.sdk import changed  # noqa: PLC0415  (code that did not change never pays for it)

            self._differs(changed.place(call.key, other, call.prefix, call.position))

    def _compare(self, call: StepCall, told: str) -> None:
        from milepost.sdk import changed  # noqa: PLC0415  (code that did not change never pays for it)

        self._differs(changed.compare(call.key, told, call.fingerprint))

    def _check_branch(self, prefix: str, recorded: str, found: str) -> None:
        from milepost.sdk import changed  # noqa: PLC0415  (code that did not change never pays for it)

        self.branches.differs = None
        self._differs(changed.branch(prefix, recorded, found))

    def _differs(self, error: ChangedCodeError | None) -> None:
        if error is None:
            return
        if self._accepts:
            logger.warning("accepted: %s", error)
            return
        self.changed = error
        raise error

    def check_intact(self) -> None:
        """Raise what was wrong with an earlier call (ChangedCodeError, NotAwaitedError): nothing goes on from it."""
        if self.changed is not None:
            raise self.changed
        if self.forgotten is not None:
            raise self.forgotten

    def idempotency_key(self) -> str:
        """Give the key of the step whose body this is. Raises StepKeyError outside of one."""
        here = scope.get(None)
        if here is None or not here.step:
            raise StepKeyError("ctx.idempotency_key is of a step: ask for it in the function that the step runs")
        from hashlib import blake2b  # noqa: PLC0415  (most tasks never ask: it loads OpenSSL)

        return f"{self.attempt.key_run}-{blake2b(here.step.encode(), digest_size=8).hexdigest()}"

    def step_recorded(
        self, call: "StepCall | Failure", value: str, types: str | None = None, *, failed: bool = False
    ) -> None:
        """Keep a record of this attempt where it may be asked for again: in the body of a step that is retried."""
        if (body := retried.get(None)) is not None:
            body.kept(call.key, (line_of(value, types, failed=failed), call.fingerprint))

    def again(self, body: Retried) -> None:
        """Let the steps in a step's body be called anew, for its next try; what they recorded is kept."""
        keys, lines = body.take()
        self._used -= keys
        self._steps |= lines

    def tries(self, key: str) -> dict[str, JSON] | None:
        """Give what earlier attempts recorded of the tries of a step, once."""
        line = self._checkpoints.pop(tries_key(key), None)
        return None if line is None else json.loads(line)["value"]

    def step_failed(self, call: StepCall, error: Exception) -> None:
        """Remember it for the next record of this branch; if there is none, the next attempt runs the step afresh."""
        if not isinstance(error, (*OURS, ChangedCodeError, NotAwaitedError)):
            failure = Failure(call.key, describe(error), call.fingerprint)
            (scope.get(None) or Scope()).failures.append(failure)

    def take_failures(self) -> list[Failure]:
        """Give the steps that failed, and that this branch went on from, since its last record."""
        here = scope.get(None)
        return [] if here is None else here.take_failures()

    def restored(self, key: str, annotation: object) -> object:
        """Give the newest value checkpointed under a key, or MISSING."""
        line = self._checkpoints.get(own_key(key))
        if line is None:
            return MISSING
        record = json.loads(line)
        if "seq" in record and (here := scope.get(None)) is not None:  # of an earlier attempt: what is done is left out
            here.loose = True
        return _value(record, annotation)

    def checkpointed(self, key: str, data: Encoded) -> None:
        """Remember a checkpoint of this attempt, once it is committed."""
        self._checkpoints[key] = line_of(data.text, data.types)

    def encode(self, value: object, what: str) -> Encoded:
        """Encode a record. Raises NotRecordableError, RecordTooLargeError."""
        limit, advice = self.attempt.record_limit
        return pack_within(value, limit, what, advice)

    def encode_chunk(self, value: object) -> Encoded:
        """Encode a part of the stream, none of which goes to object storage. Raises as `encode`."""
        return pack_within(value, self.attempt.max_record_bytes, "the chunk")


def own_key(key: str) -> str:
    """Check the key of a task's own checkpoint. Raises StepKeyError."""
    for ours in (TRIES, LAYOUT):
        if key.startswith(ours):
            raise StepKeyError(f"a checkpoint's key can't begin with {ours!r}: {key[:80]!r}")
    return checked(key)


def layout_key() -> str:
    """Give the key of a checkpoint that tells a layout: a new one, for of one key only the newest version is read."""
    return LAYOUT + unique_id()


def line_of(value: str, types: str | None, *, failed: bool = False) -> bytes:
    """Make a record's line of JSON texts, as the sidecar tells it."""
    return json.dumps({"types": types, "failed": failed}).encode()[:-1] + b',"value":' + value.encode() + b"}"


def _value(record: Mapping[str, JSON], annotation: object) -> object:
    if record.get("failed"):
        raise rebuild(record["value"])
    types = record.get("types")
    return read(record["value"], types if isinstance(types, str) else None, annotation)
