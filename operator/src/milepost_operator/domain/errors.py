"""The one family of errors. Adapters translate what they catch into these; the api turns these into problem+json."""


class MilepostError(Exception):
    """Base of all. `code` is stable and machine-readable."""

    code = "internal"


class InvalidInputError(MilepostError):
    """The caller's value can't be taken. `path` (JSON path) says where."""

    def __init__(self, code: str, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.path = path


class TooLargeError(InvalidInputError):
    """A value is over its limit; `path` names its biggest part."""


class NotFoundError(MilepostError):
    code = "not-found"


class UnauthenticatedError(MilepostError):
    code = "unauthenticated"


class ForbiddenError(MilepostError):
    code = "forbidden"


class ConflictError(MilepostError):
    """The state has moved on: `fenced`, `settled`, `step-exists`, `idempotency-mismatch`, `singleton-exists`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class GoneError(MilepostError):
    """The pod's row is closed: the pod should end."""

    code = "gone"


class PrunedError(GoneError):
    """The records that it would need were pruned."""

    code = "records-pruned"


class BusyError(MilepostError):
    """Another transaction has the row that this is about: nothing was done, and asked again it will be."""

    code = "busy"


class DamagedError(MilepostError):
    """What is kept of a record does not give what was written: a bug, or a sidecar that lied."""

    code = "record-damaged"


class RunLimitError(TooLargeError):
    """A run would have more records than its Task allows. `limit`: records.maxCount or records.maxBytes, and `most` of
    it; `key`: of what most of it is.
    """

    def __init__(self, limit: str, most: int, key: str, message: str) -> None:
        super().__init__("run-limit", message)
        self.limit = limit
        self.most = most
        self.key = key


class UnavailableError(MilepostError):
    """Postgres, Kubernetes or the object storage can't answer now; nothing was acknowledged, and the same call may
    succeed later.
    """

    code = "unavailable"

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class StorageError(MilepostError):
    """The object storage refuses us as it is configured: nothing is stored until that is changed."""

    code = "storage-refused"


class OverloadedError(UnavailableError):
    """Too much is waiting here already; nothing was acknowledged; come again later."""

    code = "overloaded"


class QueueFullError(OverloadedError):
    """The queue has as many runs waiting as its maxDepth allows; nothing was stored."""

    code = "queue-full"


class ThrottledError(OverloadedError):
    """More calls than the throttle lets through; nothing was stored."""

    code = "throttled"


class DeposedError(MilepostError):
    """This operator is no longer the leader of the current epoch: it must not act."""

    code = "deposed"
