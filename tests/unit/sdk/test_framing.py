"""HTTP/1.1 as bytes: what is taken, what is refused, however it is cut into pieces."""

import json
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.net import stream
from milepost.net.client import Client
from milepost.net.framing import MAX_HEAD, BadMessageError, Inbox, chunk_bytes, reply_bytes, request_bytes
from milepost.net.messages import TransportError
from milepost.net.stream import Stream
from tests.fakes.podapi import FakeApi

POST = b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nX-Odd:  a b \t\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n"
SIZED = POST + b"Content-Length: 5\r\n\r\nhello"


def whole(inbox: Inbox) -> bytes | None:
    found = b""
    while piece := inbox.body():
        found += piece
    return None if piece is None else found


@given(st.lists(st.integers(1, 40), max_size=12))
def test_two_requests_are_read_however_they_are_cut(sizes: list[int]) -> None:
    data, inbox, bodies, head, body = CHUNKED + SIZED, Inbox(), [], None, b""
    while data or head is not None:
        size = sizes.pop() if sizes else len(data)
        if data:
            inbox.feed(data[:size])
            data = data[size:]
        while True:
            head = head or inbox.request()
            if head is None:
                break
            assert (head.method, head.target, head.headers["x-odd"], head.keep) == ("POST", "/a?b=c", "a b", True)
            while piece := inbox.body():
                body += piece
            if piece is None:
                break
            assert inbox.complete
            bodies.append(body)
            head, body = None, b""
    assert bodies == [b"abc0123456789", b"hello"]
    assert inbox.empty


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"\x16\x03\x01", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/2\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
        (b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"GET " + b"x" * MAX_HEAD, 431),
        (b"GET / HTTP/1.1\r\nHost: " + b"x" * MAX_HEAD + b"\r\n\r\n", 431),
    ],
)
def test_a_doubtful_request_is_refused(text: bytes, status: int) -> None:
    inbox = Inbox()
    inbox.feed(text)
    with pytest.raises(BadMessageError) as refused:
        inbox.request()
    assert refused.value.status == status


@pytest.mark.parametrize("chunk", [b"x\r\n", b"-1\r\n", b"0x1\r\n", b"\r\n\r\n", b"1\r\nabc\r\n", b"1" * 20000])
def test_a_malformed_chunk_is_refused(chunk: bytes) -> None:
    inbox = Inbox()
    inbox.feed(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
    assert inbox.request()
    with pytest.raises(BadMessageError):
        whole(inbox)


@pytest.mark.parametrize("cut", [5, len(SIZED) - 1, len(CHUNKED) - 1])
def test_an_end_in_the_middle_is_told(cut: int) -> None:
    inbox = Inbox()
    inbox.feed((CHUNKED if cut > len(SIZED) else SIZED)[:cut])
    inbox.feed(b"")
    with pytest.raises(EOFError):
        assert inbox.request() is None or whole(inbox) is None


def test_answers_are_read() -> None:
    inbox = Inbox()
    inbox.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    inbox.feed(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 409\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n")
    inbox.feed(b"HTTP/1.0 200 OK\r\n\r\nuntil the end")
    found = []
    for _ in range(4):
        head = inbox.reply()
        assert head is not None
        if head.status == 200 and found:
            inbox.feed(b"")
        found.append((head.status, whole(inbox), head.keep))
    assert found == [(200, b"ok", True), (204, b"", True), (409, b"", False), (200, b"until the end", False)]


def test_what_is_written_is_read_back() -> None:
    inbox = Inbox()
    inbox.feed(request_bytes("PUT", "/x", "h", [("A", "b: c")], b"body"))
    head = inbox.request()
    assert head is not None
    assert (head.method, head.target, head.headers["a"], whole(inbox)) == ("PUT", "/x", "b: c", b"body")
    inbox.feed(reply_bytes(200, [], None, keep=False) + chunk_bytes(b"ab") + chunk_bytes(b"") + b"0\r\n\r\n")
    answer = inbox.reply()
    assert answer is not None
    assert (answer.keep, whole(inbox)) == (False, b"ab")
    for bad in ("a\r\nb: c", "a\nb", "a\rb"):
        with pytest.raises(ValueError, match="several lines"):
            request_bytes("GET", "/", "h", [("A", bad)], b"")


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    subject = ["-subj", "/CN=a", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command = ["openssl", "req", "-x509", *curve, "-keyout", key, "-out", cert, *subject]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


async def test_large_bodies_pass_over_tls_and_a_closed_connection_is_not_used_again(certificate) -> None:
    cert, key = certificate
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    trusted, strange = ssl.create_default_context(cafile=str(cert)), ssl.create_default_context()
    api = FakeApi()
    async with api.serving(server):
        client = Client(lambda: Stream.tcp("127.0.0.1", api.port, trusted), "a")
        reply = await client.request("POST", "/pod/v1/session", [("Authorization", "Bearer pod-token")], b"{}", 10)
        bearer = [("Authorization", f"Bearer {reply.json()['token']}")]
        fence = {"run_id": "run-1", "attempt": 1, "token": 1}
        value = '"' + "é" * 1_000_000 + '"'
        body = {"fence": fence, "records": [{"write_id": "w", "kind": "checkpoint", "key": "k", "value": value,
                                             "types": None, "fingerprint": None}]}  # fmt: skip
        assert (await client.request("POST", "/pod/v1/records", bearer, json.dumps(body).encode(), 10)).status == 200
        target = "/pod/v1/records/newest?run_id=run-1&attempt=1&token=1&kind=checkpoint&key=k"
        for _ in range(3):
            assert (await client.request("GET", target, bearer, b"", 10)).json()["value"] == value
        api.down = True
        with pytest.raises(TransportError) as broken:
            await client.request("GET", target, bearer, b"", 10)
        assert broken.value.reused
        api.down = False
        assert (await client.request("GET", target, bearer, b"", 10)).status == 200
        client.close()
        with pytest.raises(TransportError, match="certificate verify failed"):
            await Client(lambda: Stream.tcp("127.0.0.1", api.port, strange), "a").request("GET", "/", [], b"", 10)
        with pytest.raises(TransportError):
            await Client(lambda: Stream.unix("/nowhere"), "a").request("GET", "/", [], b"", 10)


async def test_a_peer_that_never_speaks_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection, and says nothing: no TLS is agreed on."""
    monkeypatch.setattr(stream, "CONNECT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        await Stream.tcp("127.0.0.1", silent.getsockname()[1], ssl.create_default_context())


async def test_a_peer_that_is_gone_without_a_word_is_noticed_within_seconds() -> None:
    """The kernel asks for it; how long that takes is in its hands."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = await Stream.tcp("127.0.0.1", server.getsockname()[1], None)
        told = made._socket
        assert told.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        names = {"TCP_KEEPIDLE": 2, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 6000}
        assert {name: told.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names} == names
        made.close()
