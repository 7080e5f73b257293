"""HTTP/1.1 messages as bytes (RFC 9112), without I/O. Strict: what is doubtful is refused, never guessed.

Of our own making because a durable step passes through it six times, and each pass has to cost microseconds.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from milepost.net.messages import Headers

CHUNK: Final = 65536
"""Bytes asked of a connection at once."""
MAX_HEAD: Final = 16384
"""Bytes of a message's first line and headers; of the line before a chunk, and of trailers, as well."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"

_REQUEST: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/(1\.[0-9])")
_STATUS: Final = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_LENGTH: Final = re.compile(r"[0-9]{1,15}")
_ONCE: Final = frozenset({"content-length", "transfer-encoding", "host"})
_NO_BODY: Final = frozenset({204, 304})
_UNTIL_CLOSE: Final = -1
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class BadMessageError(Exception):
    """What came is not a message we take; `status` is how a server answers it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class RequestHead:
    """The beginning of a request. Header names are lower case; `keep`: the connection may go on after it."""

    method: str
    target: str
    headers: dict[str, str]
    keep: bool


@dataclass(slots=True)
class ReplyHead:
    """The beginning of an answer, likewise."""

    status: int
    headers: dict[str, str]
    keep: bool


class Inbox:
    """One direction of a connection. Feed it what arrives; take heads and bodies out, None while more is needed."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ended = False
        self._left = 0
        self._chunked = False
        self._in_chunks = False
        self.complete = True
        """Whether the last message was given out to its end."""

    @property
    def empty(self) -> bool:
        """Tell whether nothing waits, not even the end."""
        return not self._data and not self._ended

    def feed(self, data: bytes) -> None:
        """Take what was read; b"" is the end of the stream."""
        self._data += data
        self._ended = self._ended or not data

    def request(self) -> RequestHead | None:
        """Give the next request's head. Raises BadMessageError; EOFError when no more can come."""
        lines = self._head()
        if lines is None:
            return None
        found = _REQUEST.fullmatch(lines[0])
        if found is None:
            raise BadMessageError("the first line is no request line of HTTP/1.1")
        if found[3] != "1.1":
            raise BadMessageError(f"HTTP/{found[3]} is not spoken here", 505)
        headers = _headers(lines)
        if "host" not in headers:
            raise BadMessageError("the header Host is missing")
        self._body_follows(headers, 0)
        return RequestHead(found[1], found[2], headers, _keeps(headers))

    def reply(self) -> ReplyHead | None:
        """Give the next answer's head; those of 1xx are passed over. Raises BadMessageError, EOFError."""
        while (lines := self._head()) is not None:
            found = _STATUS.fullmatch(lines[0])
            if found is None:
                raise BadMessageError("the first line is no status line of HTTP/1.1")
            status, headers = int(found[2]), _headers(lines)
            if status < HTTPStatus.OK:
                continue
            if status in _NO_BODY:
                self._left, self._chunked, self.complete = 0, False, True
            else:
                self._body_follows(headers, _UNTIL_CLOSE)
            return ReplyHead(status, headers, found[1] == "1" and self._left != _UNTIL_CLOSE and _keeps(headers))
        return None

    def body(self) -> bytes | None:
        """Give what is there of the body, b"" after its end. Raises BadMessageError; EOFError when it broke off."""
        if self._chunked and not self._left and not self._next_chunk():
            return None
        if not self._left:
            self.complete = True
            return b""
        if not self._data:
            return self._nothing_there()
        if self._left in {_UNTIL_CLOSE, len(self._data)}:
            piece = bytes(self._data)
            self._data.clear()
        else:
            piece = bytes(self._data[: self._left])
            del self._data[: len(piece)]
        if self._left != _UNTIL_CLOSE:
            self._left -= len(piece)
            self.complete = not self._left and not self._chunked
        return piece

    def _nothing_there(self) -> bytes | None:
        if self._ended and self._left == _UNTIL_CLOSE:
            self._left, self.complete = 0, True
            return b""
        self._check_more_can_come()
        return None

    def _check_more_can_come(self) -> None:
        if self._ended:
            raise EOFError("the connection closed in the middle of a message" if self._data else "no more messages")

    def _head(self) -> list[str] | None:
        data = self._data
        end = data.find(b"\r\n\r\n", 0, MAX_HEAD + 4)
        if end < 0:
            if data and (data[0] <= 0x20 or b"\n\n" in data):  # noqa: PLR2004  no method begins like this
                raise BadMessageError("lines have to end with CR LF, and the first begins with a letter")
            if len(data) > MAX_HEAD:
                raise BadMessageError(f"the headers have over {MAX_HEAD} bytes", 431)
            self._check_more_can_come()
            return None
        lines = data[:end].decode("latin-1").split("\r\n")
        del data[: end + 4]
        return lines

    def _body_follows(self, headers: dict[str, str], without_length: int) -> None:
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if coding is not None and (coding.lower() != "chunked" or length is not None):
            raise BadMessageError(f"a body is framed by chunks or by its length, not by {coding!r}", 501)
        if length is not None and not _LENGTH.fullmatch(length):
            raise BadMessageError(f"Content-Length is {length!r}")
        self._chunked, self._in_chunks = coding is not None, False
        self._left = int(length) if length is not None else 0 if self._chunked else without_length
        self.complete = not self._chunked and not self._left

    def _next_chunk(self) -> bool:
        """Go to the content of the next chunk, or past the last one; false while its size is not there."""
        data = self._data
        start = 2 if self._in_chunks else 0  # the line's end after the chunk before
        end = data.find(b"\r\n", start, MAX_HEAD)
        found = _SIZE.fullmatch(data, start, end) if end >= 0 else None
        if (end >= 0 and found is None) or (start and not b"\r\n".startswith(data[:2])):
            raise BadMessageError("a chunk has no proper size")
        last = found is not None and not int(found[1], 16)
        stop = data.find(b"\r\n\r\n", end, MAX_HEAD) if last else end
        if found is None or stop < 0:
            if len(data) > MAX_HEAD:
                raise BadMessageError("a chunk has no proper size")
            self._check_more_can_come()
            return False
        self._left, self._chunked, self._in_chunks = int(found[1], 16), not last, True
        del data[: stop + 4 if last else stop + 2]
        return True


def request_bytes(method: str, target: str, host: str, headers: Headers, body: bytes) -> bytes:
    """Serialize a request. Raises ValueError for a header that would be two."""
    return request_head(method, target, host, headers, len(body)) + body


def request_head(method: str, target: str, host: str, headers: Headers, length: int) -> bytes:
    """Serialize what comes before a body of so many bytes. Raises ValueError likewise."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    if length or method in {"PUT", "POST"}:
        lines.append(f"Content-Length: {length}")
    return _message(lines, headers)


def reply_bytes(status: int, headers: Headers, length: int | None, *, keep: bool) -> bytes:
    """Serialize an answer's head; `length` None: chunks follow. Raises ValueError likewise."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}"]
    if length is None:
        lines.append("Transfer-Encoding: chunked")
    elif status not in _NO_BODY:
        lines.append(f"Content-Length: {length}")
    if not keep:
        lines.append("Connection: close")
    return _message(lines, headers)


def chunk_bytes(data: bytes) -> bytes:
    """Frame a piece of an answer; nothing for b"", which would be the end."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _message(lines: list[str], headers: Headers) -> bytes:
    lines += [f"{name}: {value}" for name, value in headers]
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise ValueError("a header can't have several lines")
    return f"{text}\r\n\r\n".encode("latin-1")


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if not _NAME.fullmatch(name) or _BAD_VALUE.search(value):
            raise BadMessageError("a header is malformed")
        name = name.lower()
        if name in headers and name in _ONCE:
            raise BadMessageError(f"the header {name} is there twice")
        headers[name] = value.strip(" \t")
    return headers


def _keeps(headers: dict[str, str]) -> bool:
    return "close" not in headers.get("connection", "").lower()
