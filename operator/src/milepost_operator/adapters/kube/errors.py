"""What the Kubernetes API answers besides success."""
# ruff: noqa: N818  (named as the API names its reasons)

from collections.abc import Mapping
from typing import Any

from milepost_operator.domain.errors import MilepostError, UnavailableError


class KubeError(MilepostError):
    """Any answer that isn't 2xx. `status`: HTTP status (0: none came); `reason`: the API's own, e.g. AlreadyExists."""

    code = "kubernetes"

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.message}"


class KubeForbidden(KubeError):
    """403: RBAC, an admission policy or a quota refuses it."""


class KubeNotFound(KubeError):
    """404."""


class KubeConflict(KubeError):
    """409: `reason` is AlreadyExists on create, Conflict on a stale resourceVersion."""


class KubeGone(KubeError):
    """410: the resourceVersion or continue token is too old; list anew."""


class KubeInvalid(KubeError):
    """422: the object breaks its schema or an immutable field."""


class KubeUnavailable(KubeError, UnavailableError):
    """429, 5xx or no answer at all: the same call may succeed after `retry_after_seconds`."""

    def __init__(self, status: int, reason: str, message: str, retry_after_seconds: float = 1.0) -> None:
        KubeError.__init__(self, status, reason, message)
        self.retry_after_seconds = retry_after_seconds


_BY_STATUS: dict[int, type[KubeError]] = {
    403: KubeForbidden,
    404: KubeNotFound,
    409: KubeConflict,
    410: KubeGone,
    422: KubeInvalid,
}
_TOO_MANY = 429
_SERVER_ERROR = 500


def from_status(status: int, body: Mapping[str, Any], retry_after: str | None = None) -> KubeError:
    """Turn a Status object (or what came instead, as {"message": …}) into the error that it means."""
    reason = str(body.get("reason") or "Unknown")
    message = str(body.get("message") or "no message")
    if status == _TOO_MANY or status >= _SERVER_ERROR:
        return KubeUnavailable(status, reason, message, _seconds(body, retry_after))
    return _BY_STATUS.get(status, KubeError)(status, reason, message)


def _seconds(body: Mapping[str, Any], header: str | None) -> float:
    details = body.get("details")
    hint = header or (details.get("retryAfterSeconds") if isinstance(details, Mapping) else None)
    try:
        return max(float(hint), 0.1) if hint else 1.0
    except (TypeError, ValueError):
        return 1.0
