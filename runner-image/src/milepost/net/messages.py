"""Requests and answers as plain records, and the ways an exchange can fail."""

import json
import os
from binascii import b2a_base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from milepost.wire.values import JSON

Headers = list[tuple[str, str]]
PROBLEM_JSON: Final = "application/problem+json"
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class TransportError(Exception):
    """The exchange broke: it may or may not have taken effect. `reused`: it went over a kept-alive connection."""

    def __init__(self, message: str, *, reused: bool = False) -> None:
        super().__init__(message)
        self.reused = reused


@dataclass(slots=True)
class Request:
    """One request as a server sees it. Header names are lower case; `path` is still percent-encoded."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""
    pieces: AsyncIterator[bytes] | None = None
    """The body of a request that its server streams, as it comes; it has the length that Content-Length says."""

    @property
    def length(self) -> int | None:
        """Bytes of the body as its sender declared them."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isdecimal() else None


@dataclass(slots=True)
class Response:
    """One answer of a server; `stream` takes the place of `body` and is sent in chunks. `last`: of its connection."""

    status: int
    body: bytes = b""
    headers: Headers = field(default_factory=list)
    content_type: str = "application/json"
    stream: AsyncIterator[bytes] | None = None
    last: bool = False


@dataclass(slots=True)
class Reply:
    """One answer as a client sees it. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> JSON:
        """Decode the body. Raises ValueError when it is not JSON."""
        value: JSON = json.loads(self.body)
        return value

    def problem(self) -> dict[str, JSON]:
        """Decode a problem+json body; an empty dict when it is something else (a proxy's page, say)."""
        try:
            value = self.json()
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def retry_after(self) -> float | None:
        """Seconds of the Retry-After header (its date form is not used between our parts)."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isdecimal() else None


class ProblemError(Exception):
    """Ends a request with a problem+json answer."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        members: Mapping[str, JSON] | None = None,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.members = dict(members or {})
        self.headers = list(headers or [])

    def response(self) -> Response:
        """Render it (RFC 9457)."""
        body = {"status": self.status, "code": self.code, "detail": str(self), **self.members}
        return Response(self.status, compact(body), self.headers, PROBLEM_JSON)


def compact(value: JSON | Mapping[str, JSON]) -> bytes:
    """Encode what we ourselves made as JSON."""
    return _ENCODER.encode(value).encode()


def jitter() -> float:
    """Return a random share between 0.5 and 1. (`random` would cost the start of a process several milliseconds.)"""
    return 0.5 + int.from_bytes(os.urandom(2), "big") / 131072


def unique_id() -> str:
    """Return a string no other writer to the same run uses. Short: it is kept with each record."""
    return b2a_base64(os.urandom(9), newline=False).decode()
