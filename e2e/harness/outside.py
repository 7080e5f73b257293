"""The world outside of the cluster, played by this machine: addresses that answer, and that nobody else has."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster import network
from e2e.cluster.layout import LOCK, OUTSIDE
from e2e.cluster.shell import locked

WORLD = "203.0.113.10"
METADATA = "169.254.169.254"
PORTS = (80, 8080)
# Says "ready" and serves until its standard input ends: it outlives nobody.
SERVER = """
import http.server, sys, threading

class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_):
        pass

for port in map(int, sys.argv[1:]):
    server = http.server.ThreadingHTTPServer(("", port), Hello)
    threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def outside() -> Iterator[None]:
    """Have a web server at WORLD and at METADATA, on PORTS, that the nodes of the host cluster have routes to."""
    with locked(LOCK, "the cluster"):
        network.ensure_outside([WORLD, METADATA])
    space = Path("/run/netns") / OUTSIDE
    words = ["nsenter", f"--net={space}", sys.executable, "-I", "-c", SERVER, *map(str, PORTS)]
    server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if server.stdout is None or server.stdout.readline() != "ready\n":
            raise AssertionError("the server outside did not start")
        yield
    finally:
        server.communicate()
        with locked(LOCK, "the cluster"):
            network.remove_outside()
