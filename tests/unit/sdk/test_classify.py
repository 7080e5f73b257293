"""Which errors are worth another try: real clients' exceptions, and things that only look like them."""

import errno
import http.client
import io
import socket
import ssl
import urllib.error
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from types import SimpleNamespace

import aiohttp
import httpx2 as httpx
import jsonschema
import pydantic
import pytest
import requests
from multidict import CIMultiDict

from milepost.errors import FatalError, MilepostError, RecordTooLargeError, StepFailedError
from milepost.sdk.classify import MAX_AFTER_SECONDS, Verdict, classify, retry_after

AGAIN, NEVER, UNKNOWN = Verdict(retryable=True), Verdict(retryable=False), Verdict()


def of_httpx(status: int, headers: dict[str, str] | None = None) -> Exception:
    request = httpx.Request("GET", "http://x/")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, headers=headers))


def of_requests(status: int, headers: dict[str, str] | None = None) -> Exception:
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers or {})
    return requests.HTTPError("no", response=response)


def of_aiohttp(status: int, headers: dict[str, str] | None = None) -> Exception:
    return aiohttp.ClientResponseError(None, (), status=status, headers=CIMultiDict(headers or {}))  # type: ignore[arg-type]


def of_urllib(status: int, headers: dict[str, str] | None = None) -> Exception:
    message = Message()
    for name, value in (headers or {}).items():
        message[name] = value
    error = urllib.error.HTTPError("http://x/", status, "no", message, io.BytesIO())
    error.close()
    return error


def of_botocore(status: int, headers: dict[str, str] | None = None) -> Exception:
    error = Exception("SlowDown")
    error.response = {"Error": {}, "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}}  # type: ignore[attr-defined]
    return error


def of_model_client(status: int, headers: dict[str, str] | None = None) -> Exception:
    """As the clients of hosted models make them: a status of its own, and httpx's answer."""
    error = Exception("overloaded")
    error.status_code = status  # type: ignore[attr-defined]
    error.response = httpx.Response(status, headers=headers)  # type: ignore[attr-defined]
    return error


CLIENTS = [of_httpx, of_requests, of_aiohttp, of_urllib, of_botocore, of_model_client]


@pytest.mark.parametrize("make", CLIENTS)
def test_answers_are_told_apart_whatever_the_client(make):
    for status in (408, 425, 429, 500, 502, 503, 504, 529):
        assert classify(make(status)) == AGAIN, status
    for status in (400, 401, 403, 404, 409, 410, 413, 422):
        assert classify(make(status)) == NEVER, status
    assert classify(make(429, {"Retry-After": "7"})) == Verdict(True, 7.0)
    assert classify(make(503, {"retry-after-ms": "1500"})) == Verdict(True, 1.5)
    assert classify(make(403, {"RETRY-AFTER": "60"})) == Verdict(True, 60.0), "an invitation to come again"
    assert classify(make(200)) == UNKNOWN


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (httpx.ConnectError("no"), AGAIN),
        (httpx.ReadTimeout("slow"), AGAIN),
        (httpx.RemoteProtocolError("gone"), AGAIN),
        (httpx.UnsupportedProtocol("ftp"), NEVER),
        (httpx.InvalidURL("x"), NEVER),
        (requests.ConnectionError("no"), AGAIN),
        (requests.ReadTimeout("slow"), AGAIN),
        (requests.exceptions.ChunkedEncodingError("cut"), AGAIN),
        (requests.exceptions.MissingSchema("x"), NEVER),
        (requests.exceptions.InvalidURL("x"), NEVER),
        (requests.HTTPError("without a response"), UNKNOWN),
        (requests.JSONDecodeError("no", "doc", 0), UNKNOWN),
        (aiohttp.ServerDisconnectedError(), AGAIN),
        (aiohttp.ClientPayloadError("cut"), AGAIN),
        (aiohttp.ConnectionTimeoutError("slow"), AGAIN),
        (aiohttp.InvalidURL("x"), NEVER),
        (urllib.error.URLError(ConnectionRefusedError(errno.ECONNREFUSED, "no")), AGAIN),
        (urllib.error.URLError(socket.gaierror(-3, "try again")), AGAIN),
        (urllib.error.URLError("unknown url type: x"), UNKNOWN),
        (http.client.RemoteDisconnected("gone"), AGAIN),
        (http.client.IncompleteRead(b"half"), AGAIN),
        (http.client.InvalidURL("x"), NEVER),
        (ConnectionResetError(errno.ECONNRESET, "reset"), AGAIN),
        (TimeoutError(), AGAIN),
        (OSError(errno.ENETUNREACH, "no way"), AGAIN),
        (FileNotFoundError(errno.ENOENT, "no file"), UNKNOWN),
        (ssl.SSLCertVerificationError("expired"), UNKNOWN),
        (jsonschema.ValidationError("no"), NEVER),
        (FatalError("no"), NEVER),
        (RecordTooLargeError("it", 2, 1, "$"), NEVER),
        (StepFailedError("a:B", "no"), UNKNOWN),
        (MilepostError("no"), UNKNOWN),
        (ValueError("no"), UNKNOWN),
        (KeyError("code"), UNKNOWN),
    ],
)
def test_errors_without_an_answer(error: Exception, verdict: Verdict):
    assert classify(error) == verdict


def test_what_does_not_validate_is_permanent():
    class Order(pydantic.BaseModel):
        count: int

    with pytest.raises(pydantic.ValidationError) as caught:
        Order.model_validate({"count": "many"})
    assert classify(caught.value) == NEVER


def test_a_wrapped_error_is_judged_by_its_cause_where_that_gives_hope():
    def wrapped(cause: Exception, outer: Exception) -> Exception:
        outer.__cause__ = cause
        return outer

    assert classify(wrapped(of_httpx(429, {"Retry-After": "9"}), LookupError())) == Verdict(True, 9.0)
    assert classify(wrapped(of_httpx(404), LookupError())) == UNKNOWN, "the task said it in words of its own"
    assert classify(wrapped(ConnectionError(), FatalError("no"))) == NEVER
    loop = ValueError()
    loop.__cause__ = loop
    assert classify(loop) == UNKNOWN


def test_several_errors_at_once():
    assert classify(ExceptionGroup("g", [TimeoutError(), of_httpx(503, {"Retry-After": "4"})])) == Verdict(True, 4.0)
    assert classify(ExceptionGroup("g", [TimeoutError(), of_httpx(404)])) == NEVER
    assert classify(ExceptionGroup("g", [TimeoutError(), ValueError()])) == UNKNOWN
    deep: Exception = TimeoutError()
    for _ in range(50):
        deep = ExceptionGroup("g", [deep])
    assert classify(deep) == UNKNOWN


def test_retry_after_in_all_its_forms():
    def after(text: str, **more: str) -> float | None:
        return retry_after({"Retry-After": text} | more)

    assert after("120") == 120.0
    assert after("0") == 0.0
    assert after(" 1.5 ") == 1.5
    assert after("9" * 15) == MAX_AFTER_SECONDS
    then = datetime(2030, 1, 31, 9, 0, 30, tzinfo=UTC)
    date = format_datetime(then - timedelta(seconds=30), usegmt=True)
    assert after(format_datetime(then, usegmt=True), Date=date) == 30.0, "by the server's own clock"
    assert after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    for odd in ("", "-5", "soon", "nan", "inf", "1e9", "٣", "9" * 400, "Wed, 99 Oct 2015", "1.2.3", "."):
        assert after(odd) is None, odd
    for strange in (None, 3, "Retry-After: 3", [("Retry-After", "3")], SimpleNamespace(items=3)):
        assert retry_after(strange) is None


def test_strangers_that_only_look_like_clients_do_no_harm():
    class HostileError(Exception):
        @property
        def response(self) -> object:
            raise RuntimeError("not set")

        @property
        def status_code(self) -> object:
            raise RuntimeError("not set")

        headers = SimpleNamespace(items=lambda: 1 / 0)
        status = 503

    assert classify(HostileError()) == AGAIN
    for code in (4, 404, "404", True, lambda: 404):
        error = Exception("exit code, gRPC's method, …")
        error.code = code  # type: ignore[attr-defined]
        assert classify(error) == UNKNOWN, code
    assert classify(SystemExit(404)) == UNKNOWN
    odd = Exception()
    odd.response = {"ResponseMetadata": "none"}  # type: ignore[attr-defined]
    assert classify(odd) == UNKNOWN
