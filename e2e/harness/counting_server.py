"""The counting Service: hears from tasks what they execute. It runs in the cluster, outside of everything it counts.

Standard library only: this file itself is mounted into a pod. POST / takes one event (a JSON object), GET /events
gives all of one run (`?run=`) or all, one JSON object a line, in the order of arrival with the time, POST /reset
forgets.
"""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

LOCK = threading.Lock()
EVENTS: list[dict[str, object]] = []


class Handler(BaseHTTPRequestHandler):
    """One connection; kept alive as HTTP/1.1 does."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take an event, or forget all."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if urlsplit(self.path).path == "/reset":
            with LOCK:
                EVENTS.clear()
            self._answer(204, b"")
            return
        try:
            event = json.loads(body)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            self._answer(400, b"a JSON object is wanted\n")
            return
        with LOCK:
            EVENTS.append({**event, "n": len(EVENTS), "at": time.time()})
        self._answer(204, b"")

    def do_GET(self) -> None:
        """Give the events, or say that all is well."""
        url = urlsplit(self.path)
        if url.path != "/events":
            self._answer(200, b"ok\n")
            return
        run = parse_qs(url.query).get("run", [None])[0]
        with LOCK:
            chosen = [event for event in EVENTS if run is None or event.get("run") == run]
        self._answer(200, "".join(json.dumps(event) + "\n" for event in chosen).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a line per event would be a second copy of them."""


class Server(ThreadingHTTPServer):
    """Hundreds of tasks may connect at once."""

    request_queue_size = 512
    daemon_threads = True


if __name__ == "__main__":
    Server(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
