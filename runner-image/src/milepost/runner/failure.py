"""Exceptions of the user's code as failures for the record."""

from collections.abc import Iterator
from traceback import StackSummary, TracebackException
from typing import Final

from milepost.errors import FatalError
from milepost.net.messages import compact
from milepost.sdk.failed import keepable
from milepost.sdk.fingerprint import OWN_CODE
from milepost.sdk.task import When
from milepost.wire.evidence import Evidence, FailureKind
from milepost.wire.values import JSON

MAX_TRACEBACK: Final = 32768
MAX_MESSAGE: Final = 8192


def of_exception(error: BaseException, kind: FailureKind | None = None, when: When | None = None) -> bytes:
    """Make the body of PUT /v1/failure. Frames of Milepost itself are left out of the traceback.

    `when`: the task's own function, which decides whether another attempt helps.
    """
    from milepost.sdk.retry import verdict_of  # noqa: PLC0415  (an attempt that does not fail never pays for it)

    verdict = verdict_of(error, when)
    found: FailureKind = kind or ("fatal" if isinstance(error, FatalError) else "user")
    return body(
        found,
        type(error).__name__,
        str(error),
        traceback_of(error),
        retryable=verdict.retryable,
        retry_after_seconds=verdict.after_seconds,
    )


def body(
    kind: FailureKind,
    type: str,  # noqa: A002  # the member's name
    message: str,
    traceback: str = "",
    *,
    retryable: bool | None = None,
    retry_after_seconds: float | None = None,
    evidence: Evidence | None = None,
) -> bytes:
    """Make the body of PUT /v1/failure."""
    members: dict[str, JSON] = {
        "kind": kind,
        "type": type,
        "message": keepable(message)[:MAX_MESSAGE],
        "traceback": keepable(traceback)[-MAX_TRACEBACK:],
        "retryable": retryable,
    }
    if retry_after_seconds is not None:
        members["retry_after_seconds"] = retry_after_seconds
    if evidence is not None:
        members["evidence"] = {
            "oom_kills": evidence.oom_kills,
            "peak_bytes": evidence.peak_bytes,
            "exit_code": evidence.exit_code,
            "signal": evidence.signal,
        }
    return compact(members)


def traceback_of(error: BaseException) -> str:
    """Format an exception with its causes, without Milepost's own frames."""
    whole = TracebackException.from_exception(error)
    for part in _parts(whole):
        part.stack = StackSummary.from_list([f for f in part.stack if not _own(f.filename)])
    return "".join(whole.format())


def _parts(part: TracebackException | None) -> Iterator[TracebackException]:
    if part is None:
        return
    yield part
    yield from _parts(part.__cause__)
    yield from _parts(part.__context__)
    for member in getattr(part, "exceptions", None) or ():
        yield from _parts(member)


def _own(filename: str) -> bool:
    return filename.startswith((OWN_CODE, "<frozen "))
