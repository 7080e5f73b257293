"""Whether it helps to try again after an error, told by what the error looks like: no HTTP client is imported.

Clients are known by the names of their exceptions' classes and modules, and by where they keep status and headers.
"""

import errno
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from milepost.errors import MilepostError

MAX_AFTER_SECONDS: Final = 86_400.0
"""Another server's wish is granted for a day at most."""
MAX_CAUSES: Final = 8
TRY_AGAIN: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
NETWORK: Final = frozenset({
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.EHOSTUNREACH,
    errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.EADDRNOTAVAIL, errno.EAGAIN,
})  # fmt: skip
PERMANENT: Final = frozenset({
    ("httpx", "UnsupportedProtocol"), ("httpx", "LocalProtocolError"), ("httpx", "TooManyRedirects"),
    ("httpx", "InvalidURL"), ("requests", "InvalidURL"), ("requests", "InvalidSchema"), ("requests", "MissingSchema"),
    ("requests", "InvalidHeader"), ("requests", "TooManyRedirects"), ("aiohttp", "InvalidURL"),
    ("aiohttp", "TooManyRedirects"), ("urllib", "LocationParseError"), ("http", "InvalidURL"),
    ("pydantic", "ValidationError"), ("pydantic_core", "ValidationError"), ("jsonschema", "ValidationError"),
})  # fmt: skip
TRANSIENT: Final = frozenset({
    ("builtins", "ConnectionError"), ("builtins", "TimeoutError"), ("socket", "gaierror"), ("socket", "herror"),
    ("httpx", "TransportError"), ("httpcore", "NetworkError"), ("httpcore", "TimeoutException"),
    ("httpcore", "RemoteProtocolError"), ("requests", "ConnectionError"), ("requests", "Timeout"),
    ("requests", "ChunkedEncodingError"), ("aiohttp", "ClientConnectionError"), ("aiohttp", "ClientPayloadError"),
    ("urllib", "NewConnectionError"), ("urllib", "TimeoutError"), ("urllib", "ProtocolError"),
    ("http", "IncompleteRead"), ("http", "BadStatusLine"),
})  # fmt: skip
"""Top module, less the digits at its end (httpx2, urllib3), and name of a class."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`retryable` None: nobody can tell. `after_seconds`: what the other side asked for (Retry-After)."""

    retryable: bool | None = None
    after_seconds: float | None = None


def classify(error: BaseException, depth: int = 0) -> Verdict:
    """Judge an error.

    True: the network, a timeout, 408, 425, 429, 5xx, any answer with Retry-After. False: our own permanent errors, what
    does not validate, an address that can't be right, any other 4xx. An error that wraps another (`raise … from`) is
    judged by that one when nothing else is known of it, as far as that one gives hope.
    """
    if isinstance(error, MilepostError):
        return _of_ours(error)
    if isinstance(error, BaseExceptionGroup):
        return _worst([classify(one, depth + 1) for one in error.exceptions] if depth < MAX_CAUSES else [])
    found = _of_answer(error) or _of_type(error, depth)
    if found is not None:
        return found
    if error.__cause__ is not None and depth < MAX_CAUSES:
        inner = classify(error.__cause__, depth + 1)
        return inner if inner.retryable else Verdict()
    return Verdict()


def _worst(verdicts: list[Verdict]) -> Verdict:
    """Of several errors at once: it helps to try again if that helps each of them."""
    found = {verdict.retryable for verdict in verdicts}
    after = max((v.after_seconds for v in verdicts if v.after_seconds is not None), default=None)
    if False in found:
        return Verdict(retryable=False)
    return Verdict(True if found == {True} else None, after)


def _of_ours(error: MilepostError) -> Verdict:
    """Our client's errors tell of an answer of the API; the others say themselves."""
    status, after = _status(_attribute(error, "status")), _attribute(error, "retry_after")
    if status is None:
        return Verdict(error.retryable)
    return _of_status(status, float(after) if isinstance(after, (int, float)) else None)


def _of_answer(error: BaseException) -> Verdict | None:
    """An HTTP answer that the client made an error of."""
    status, headers = answer(error)
    return None if status is None else _of_status(status, retry_after(headers))


def _of_status(status: int, after: float | None) -> Verdict:
    again = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in TRY_AGAIN or after is not None
    return Verdict(again, after if again else None)


def _of_type(error: BaseException, depth: int) -> Verdict | None:
    names = {(_top(kind.__module__), kind.__name__) for kind in type(error).__mro__}
    if ("ssl", "SSLCertVerificationError") in names:
        return Verdict()  # its set-up, or an attack: the task's own settings decide
    if names & PERMANENT:
        return Verdict(retryable=False)
    if names & TRANSIENT:
        return Verdict(retryable=True)
    reason = _attribute(error, "reason")
    if isinstance(reason, BaseException) and depth < MAX_CAUSES:  # urllib's URLError, urllib3's MaxRetryError
        return classify(reason, depth + 1)
    if isinstance(error, OSError) and error.errno in NETWORK:
        return Verdict(retryable=True)
    return None


def _top(module: str) -> str:
    return module.partition(".")[0].rstrip("0123456789")


def answer(error: BaseException) -> tuple[int | None, object]:
    """Give status (400 to 599) and headers of the HTTP answer that an error tells of; None when it tells of none.

    httpx, requests and what is built on them have a `response`; aiohttp has `status`, urllib `code`, both `headers`.
    """
    response = _attribute(error, "response")
    if isinstance(response, Mapping):  # botocore's
        told = response.get("ResponseMetadata")
        facts = told if isinstance(told, Mapping) else {}
        return _status(facts.get("HTTPStatusCode")), facts.get("HTTPHeaders")
    if response is not None:  # never by its truth: requests' answers are false when they are errors
        status = _status(_attribute(response, "status_code")) or _status(_attribute(response, "status"))
        if status is not None:
            return status, _attribute(response, "headers")
    headers = _attribute(error, "headers")
    if (status := _status(_attribute(error, "status_code"))) is not None:
        return status, headers
    if headers is not None:
        return _status(_attribute(error, "status")) or _status(_attribute(error, "code")), headers
    return None, None


def retry_after(headers: object) -> float | None:
    """Give the seconds of `Retry-After` (a number or a date) or `retry-after-ms`, at most a day; None without one."""
    if (text := _header(headers, "retry-after-ms")) is not None and (found := _seconds(text)) is not None:
        return min(found / 1000, MAX_AFTER_SECONDS)
    if (text := _header(headers, "retry-after")) is None:
        return None
    if (found := _seconds(text)) is not None:
        return min(found, MAX_AFTER_SECONDS)
    if (then := _moment(text)) is None:
        return None
    # by the server's own clock, where it tells it
    now = _moment(_header(headers, "date") or "") or time.time()
    return min(max(then - now, 0.0), MAX_AFTER_SECONDS)


def _seconds(text: str) -> float | None:
    plain = text.strip()
    whole, _, part = plain.partition(".")
    digits = (whole + part).isascii() and (whole + part).isdecimal()
    return float(plain) if whole and digits and len(plain) <= 20 else None  # noqa: PLR2004  far more than a day


def _moment(text: str) -> float | None:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415  (many milliseconds, and dates are rare)

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None  # no date: as if there were none


def _header(headers: object, name: str) -> str | None:
    items = _attribute(headers, "items")
    if not callable(items):
        return None
    try:
        for key, value in items():
            if str(key).lower() == name:
                return str(value)
    except Exception:  # noqa: BLE001  # not the headers we took them for: what failed must be told all the same
        return None
    return None


def _status(value: object) -> int | None:
    known = isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599  # noqa: PLR2004
    return int(value) if known and isinstance(value, int) else None


def _attribute(thing: object, name: str) -> object:
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001  # a property of a stranger's class: what failed must be told all the same
        return None
