"""Requests as bytes and answers as records, for both clients; h11 does the protocol."""

from typing import Final

import h11

from milepost.net.messages import Headers

CHUNK: Final = 65536
"""Bytes asked of a connection at once."""


def request_bytes(  # noqa: PLR0917
    http: h11.Connection, method: str, target: str, host: str, headers: Headers, body: bytes
) -> bytes:
    """Serialize one request."""
    fields = [("Host", host), *headers]
    if body or method in {"PUT", "POST"}:
        fields.append(("Content-Length", str(len(body))))
    out = http.send(h11.Request(method=method, target=target, headers=fields)) or b""
    if body:
        out += http.send(h11.Data(data=body)) or b""
    return out + (http.send(h11.EndOfMessage()) or b"")


def reply_headers(head: h11.Response) -> dict[str, str]:
    """Decode the headers of an answer."""
    return {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
