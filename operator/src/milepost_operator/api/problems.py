"""Errors as problem+json (RFC 9457): the one place where an error becomes a status."""

import http
import math
from typing import Final

import orjson
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import Response

from milepost_operator.domain.errors import (
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidInputError,
    MilepostError,
    NotFoundError,
    OverloadedError,
    RunLimitError,
    StorageError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
)

MEDIA_TYPE: Final = "application/problem+json"


class Problem(BaseModel):
    """RFC 9457. `code` is stable; `path` (JSON path, or the parameter's name) says which of your values is at fault."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str
    detail: str
    path: str | None = None


_STATUS: Final[tuple[tuple[type[MilepostError], int], ...]] = (
    (TooLargeError, 413),
    (InvalidInputError, 422),
    (NotFoundError, 404),
    (UnauthenticatedError, 401),
    (ForbiddenError, 403),
    (ConflictError, 409),
    (GoneError, 410),
    (StorageError, 507),
    (OverloadedError, 429),
    (UnavailableError, 503),
)
_INTERNAL: Final = 500


def problem(error: Exception) -> Response:
    """The answer to a request that ended in `error`. Unknown errors tell nothing of themselves."""
    if isinstance(error, HTTPException):
        code = http.HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
        text = orjson.dumps(_body(error.status_code, code, str(error.detail)))
        return Response(text, error.status_code, dict(error.headers or {}), MEDIA_TYPE)
    status, body, headers = described(error)
    return Response(orjson.dumps(body), status, headers, MEDIA_TYPE)


def described(error: Exception) -> tuple[int, dict[str, object], dict[str, str]]:
    """Status, body and headers of the answer to `error`: as an answer of its own, or within one to a batch."""
    status = status_of(error)
    if status == _INTERNAL or not isinstance(error, MilepostError):
        return _INTERNAL, _body(_INTERNAL, "internal", "an unexpected error; the log of the api tells more"), {}
    headers: dict[str, str] = {}
    if isinstance(error, UnavailableError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    elif isinstance(error, UnauthenticatedError):
        headers["WWW-Authenticate"] = "Bearer"
    path = error.path if isinstance(error, InvalidInputError) else None
    body = _body(status, error.code, str(error), path)
    if isinstance(error, RunLimitError):
        body |= {"limit": error.limit, "most": error.most, "key": error.key}
    return status, body, headers


def status_of(error: Exception) -> int:
    """The HTTP status that `error` means."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), _INTERNAL)


def _body(status: int, code: str, detail: str, path: str | None = None) -> dict[str, object]:
    body: dict[str, object] = {
        "type": f"urn:milepost:problem:{code}",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    return body if path is None else body | {"path": path}
