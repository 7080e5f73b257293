"""A container that misuses the sidecar's local protocol; it runs in a pod, with the standard library alone.

Prints nothing: its result is a table of what each request was answered, [status, code].
"""

import http.client
import json
import os
import socket
import time


class Sidecar(http.client.HTTPConnection):
    """HTTP over the unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(os.environ["MILEPOST_SOCKET"])


def ask(method: str, path: str, body: bytes | None = None) -> list[object]:
    connection = Sidecar("milepost")
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    except OSError as error:
        return [0, type(error).__name__]
    finally:
        connection.close()
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    return [answer.status, said.get("code") if isinstance(said, dict) else None]


def wait_for_sidecar() -> None:
    while ask("GET", "/v1/attempt")[0] != 200:
        time.sleep(0.05)


def too_early() -> list[object]:
    """Ask for the next attempt before this one is settled, as only the runner does, and only after."""
    connection = Sidecar("milepost")
    connection.request("GET", "/v1/attempt")
    attempt = json.loads(connection.getresponse().read())
    connection.close()
    asked = {"retire": None, "parent_bytes": 0, "run_id": attempt["run_id"], "attempt": attempt["attempt"]}
    return ask("POST", "/v1/next", json.dumps(asked).encode())


REQUESTS = {
    "not-json": ("PUT", "/v1/checkpoints/k", b"{nope"),
    "nan": ("PUT", "/v1/checkpoints/k", b'{"x": NaN}'),
    "nul": ("PUT", "/v1/checkpoints/k", rb'"a\u0000b"'),
    "surrogate": ("PUT", "/v1/checkpoints/k", rb'"\ud800"'),
    "big-int": ("PUT", "/v1/checkpoints/k", b"1180591620717411303424"),
    "not-utf-8": ("PUT", "/v1/checkpoints/k", b'"\xff"'),
    "too-deep": ("PUT", "/v1/checkpoints/k", b"[" * 300 + b"]" * 300),
    "too-large": ("PUT", "/v1/checkpoints/k", b'{"big": "' + b"x" * 1_100_000 + b'"}'),
    "long-key": ("PUT", "/v1/checkpoints/" + "k" * 600, b"1"),
    "no-key": ("PUT", "/v1/checkpoints/", b"1"),
    "absent": ("GET", "/v1/checkpoints/never", None),
    "nowhere": ("GET", "/v1/nowhere", None),
    "wrong-method": ("DELETE", "/v1/checkpoints/good", None),
    "progress-of-two": ("PUT", "/v1/progress", b'{"fraction": 2}'),
    "first-step": ("PUT", "/v1/steps/once", b"1"),
    "second-step": ("PUT", "/v1/steps/once", b"2"),
    "restored": ("GET", "/v1/checkpoints/good", None),
}


def main() -> None:
    wait_for_sidecar()
    ask("PUT", "/v1/checkpoints/good", b'{"kept": true}')
    said = {name: ask(*request) for name, request in REQUESTS.items()} | {"next": too_early()}
    ask("PUT", "/v1/result", json.dumps(said).encode())
    # The first result stands, whatever is said after it.
    ask("PUT", "/v1/result", b'"another"')
    ask("PUT", "/v1/failure", b'{"type": "Late", "message": "too late"}')


main()
