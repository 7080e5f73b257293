"""The errors of the SDK: one family. Cancelling a run raises `asyncio.CancelledError`, as everywhere in Python."""

from typing import ClassVar


class MilepostError(Exception):
    """Base of all. `retryable`: False ends the run, None leaves it to the task's retry settings."""

    retryable: ClassVar[bool | None] = None


class FatalError(MilepostError):
    """Raise it to fail the run at once: another attempt would fail in the same way."""

    retryable = False


class NotRecordableError(MilepostError):
    """A value that is not JSON as we keep it. `path`: its place, such as `$.items[3]`; `type`: its Python type.

    `code`: not-json-type, not-finite, int-too-large, nul-character, lone-surrogate, too-deep, circular,
    bad-key, not-importable, too-many-types.
    """

    retryable = False

    def __init__(self, path: str, type: str, code: str, detail: str) -> None:  # noqa: A002  # the field's name
        super().__init__(f"{path} ({type}): {detail}")
        self.path = path
        self.type = type
        self.code = code


class RecordTooLargeError(MilepostError):
    """A record or result above the limit. Sizes in bytes; `path`: the biggest part of the value."""

    retryable = False

    def __init__(self, what: str, size: int, limit: int, path: str, advice: str = "") -> None:
        told = f"{what} has {size} bytes and {limit} is the most; the biggest part is {path}"
        super().__init__(f"{told}; {advice}" if advice else told)
        self.size = size
        self.limit = limit
        self.path = path


class RunLimitError(MilepostError):
    """The run would have more records than its Task allows (`spec.records`). Nothing more is recorded.

    `limit`: records.maxCount or records.maxBytes; `most`: its value. `key`: of what most of the records are.
    """

    retryable = False

    def __init__(self, detail: str, limit: str, most: int, key: str) -> None:
        super().__init__(detail)
        self.limit = limit
        self.most = most
        self.key = key


class ObjectStorageError(MilepostError):
    """The cluster's object storage, where large values go, refuses them as it is configured. Nothing was recorded.

    An outage of it is no such error: then the call waits until it is over.
    """


class StreamFullError(MilepostError):
    """The run has told as much by `ctx.stream` as it may."""

    retryable = False


class ValueMismatchError(MilepostError):
    """A value that does not fit its annotation, or whose class is gone. Of a record of a step: ChangedCodeError."""

    retryable = False


class ChangedCodeError(MilepostError):
    """A record of this run is not what the code asks for now. Nothing was run, and the attempt runs no further step.

    `step`: the key of the step that was called. `difference`: order, name, arguments, value or layout.
    `recorded`: what the run has. `found`: what the code did. The Task's `onChange` says what becomes of the run.
    """

    retryable = False

    def __init__(self, step: str, difference: str, recorded: str, found: str, advice: str) -> None:
        where = f"at step {step!r}" if step else "in its layout" if difference == "layout" else "at a new branch"
        super().__init__(
            f"the code changed under this run {where}: recorded {recorded}; found {found}. To do: {advice}"
        )
        self.step = step
        self.difference = difference
        self.recorded = recorded
        self.found = found


class StepKeyError(MilepostError):
    """A step or checkpoint key that can't be used: too long, reserved characters, or used twice."""

    retryable = False


class StepFailedError(MilepostError):
    """A recorded failure of a step whose own type can't be made again. `type`: module:name of that type."""

    def __init__(self, type: str, message: str) -> None:  # noqa: A002  # the field's name
        super().__init__(message)
        self.type = type


class NoRunError(MilepostError):
    """There is no run here: the code was called outside of a task, or in a task of the other kind (async, plain)."""


class ContextUseError(MilepostError):
    """A context used where it can't be: after its task ended, in a fork, in another thread, event loop or run."""

    retryable = False


class NotAwaitedError(MilepostError):
    """A call of the context that nobody awaited: it did nothing. `call`: as `ctx.step('pay')`; `place`: file:line."""

    retryable = False

    def __init__(self, call: str, place: str) -> None:
        super().__init__(f"{call} was never awaited, so it did nothing: write `await` before it ({place})")
        self.call = call
        self.place = place


class FencedError(MilepostError):
    """This attempt may not write any more: a newer one runs, or the run ended. Let it pass."""


class SettledError(MilepostError):
    """The attempt has its result already. `state`: the run's state after it."""

    def __init__(self, detail: str, state: str) -> None:
        super().__init__(detail)
        self.state = state


class SidecarLostError(MilepostError):
    """The sidecar did not come back within a minute."""


class ProtocolError(MilepostError):
    """The sidecar refused a request that the SDK should not have made: versions that do not match, or a bug."""
