"""The HTTP API as seen from this machine: TLS checked against the chart's CA under the Service's own name."""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

KEPT_SECONDS = 2.0
"""A silent connection is trusted for this long."""


@dataclass(frozen=True)
class Answer:
    """Status, headers (lower case names) and body of one answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> object:
        return json.loads(self.body)

    def field(self, name: str) -> object:
        """One member of a JSON object; None when the body is none or has no such member."""
        try:
            value = self.json()
        except ValueError:
            return None
        return value.get(name) if isinstance(value, dict) else None


class _Connection(http.client.HTTPSConnection):
    """Connects to an address, and asks for another name's certificate."""

    def __init__(self, address: str, name: str, context: ssl.SSLContext, timeout: float) -> None:
        super().__init__(address, timeout=timeout, context=context)
        self._name = name
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), self.timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self._name)


@dataclass
class Line:
    """One connection, made with its first request and again when it has been silent for longer than servers keep it."""

    _connection: _Connection
    _bearer: str
    _used: float = 0.0

    def call(self, method: str, path: str, body: object = None) -> Answer:
        """Send one request; `body` is sent as JSON, bytes as they are."""
        headers = {"Content-Type": "application/json"}
        if self._bearer:
            headers["Authorization"] = f"Bearer {self._bearer}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if time.monotonic() - self._used > KEPT_SECONDS:
            self.close()
        self._connection.request(method, path, data, headers)
        answer = self._connection.getresponse()
        read = Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        self._used = time.monotonic()
        return read

    def close(self) -> None:
        self._connection.close()


@dataclass
class Api:
    """`address`: host:port that this machine can connect to; `name`: what the certificate is for."""

    address: str
    name: str
    authority: str
    token: str
    _context: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        self._context = ssl.create_default_context(cadata=self.authority)

    def call(
        self, method: str, path: str, body: object = None, *, token: str | None = None, timeout: float = 15
    ) -> Answer:
        """Send one request on a connection of its own.

        Args:
            method: of HTTP.
            path: with its query.
            body: sent as JSON; bytes are sent as they are; None: no body.
            token: bearer token; None: the public API's; "": no Authorization header at all.
            timeout: seconds for connecting and for each read.
        """
        line = self.line(token=token, timeout=timeout)
        try:
            return line.call(method, path, body)
        finally:
            line.close()

    def line(self, *, token: str | None = None, timeout: float = 15) -> "Line":
        """A connection for many requests, one after the other; the arguments are as those of `call`."""
        bearer = self.token if token is None else token
        return Line(_Connection(self.address, self.name, self._context, timeout), bearer)

    def alive(self) -> bool:
        """Whether a request is answered at all, by this API and not by its absence."""
        try:
            return self.call("POST", "/pod/v1/session", {"pod_id": "x" * 16}, token="", timeout=3).status < 500
        except OSError:
            return False
