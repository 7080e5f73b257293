"""What a call can end in, beside its answer: one family, each with what failed, where, and what to do."""

from collections.abc import Mapping
from typing import Final

from milepost.errors import MilepostError
from milepost.wire.values import JSON


class ApiError(MilepostError):
    """The API refused a call. `code` is stable; `path`: the JSON path of the field; `retry_after`: seconds."""

    def __init__(
        self,
        call: str,
        status: int,
        code: str,
        detail: str,
        *,
        path: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{call}: {status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.path = path
        self.retry_after = retry_after


class BadRequestError(ApiError):
    """The call itself is wrong, or too large: change it."""


class DeniedError(ApiError):
    """The token is missing, unknown, or of another namespace."""


class NotFoundError(ApiError):
    """There is no such run here."""


class ConflictError(ApiError):
    """Something has the key or the name: idempotency-mismatch, singleton-exists, name-taken."""


class BusyError(ApiError):
    """Too much for now, and more tries would take longer than allowed: queue-full, throttled, overloaded."""


class UnavailableError(ApiError):
    """The API can't be reached or can't commit, for longer than was to be waited. Sent again it is still one run."""


class AnswerError(MilepostError):
    """The answer is not what this client knows: another server, or a release that does not match."""


class WaitTimeoutError(MilepostError):
    """The run has not ended in time; it goes on."""


_KINDS: Final[dict[int, type[ApiError]]] = {
    401: DeniedError,
    403: DeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: BadRequestError,
    422: BadRequestError,
    429: BusyError,
    503: UnavailableError,
}


def error_of(call: str, status: int, problem: Mapping[str, JSON], retry_after: float | None = None) -> ApiError:
    """The error that a problem+json body tells of; of another body (a proxy's page) only the status is known."""
    code, detail, path = problem.get("code"), problem.get("detail"), problem.get("path")
    kind = _KINDS.get(status, UnavailableError if status >= 500 else ApiError)  # noqa: PLR2004
    return kind(
        call,
        status,
        code if isinstance(code, str) else "unknown",
        detail if isinstance(detail, str) else "no problem+json in the answer: is this the address of a Milepost API?",
        path=path if isinstance(path, str) else None,
        retry_after=retry_after,
    )
