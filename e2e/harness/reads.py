"""Objects read through one `kubectl proxy`: a look costs a millisecond, a process of kubectl's own a tenth of a second.

Scenarios look several times a second, on the processors that the cluster needs too. Whatever changes an object, or is a
user's view of it, stays with kubectl itself.
"""

import atexit
import http.client
import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

START_SECONDS = 20.0
READ_SECONDS = 60.0
LATER_SECONDS = 10.0
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
# The proxy ends with this process, however that ends: its shell sees the end of the pipe.
WITH_US = '"$@" >/dev/null 2>&1 & trap "kill $!" EXIT; trap exit TERM; read _'


class NotReadError(Exception):
    """The API server refused, or can't be reached; `reason` is the status' own, empty where there is none."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"Error from server ({reason}): {message}" if reason else message)


@dataclass(frozen=True)
class Resource:
    """Where objects of a kind are: `base` is the path of the group and version."""

    base: str
    plural: str
    namespaced: bool

    def path(self, namespace: str | None, name: str = "") -> str:
        """The path of one object, or of all (namespace None: in all)."""
        inside = f"/namespaces/{quote(namespace)}" if self.namespaced and namespace else ""
        return f"{self.base}{inside}/{self.plural}" + (f"/{quote(name)}" if name else "")


class Reads:
    """`proxy` gives the words of `kubectl proxy` for the path of a socket. Safe for threads: each read is its own."""

    def __init__(self, proxy: Callable[[Path], Sequence[str]]) -> None:
        self._proxy = proxy
        self._directory = tempfile.TemporaryDirectory(prefix="reads-")
        self._socket = Path(self._directory.name) / "proxy"
        self._process: subprocess.Popen[bytes] | None = None
        self._resources: dict[str, Resource] = {}
        atexit.register(self.close)

    def get(self, kind: str, name: str, namespace: str | None) -> dict[str, object]:
        """One object. Raises NotReadError."""
        return _shown(self._read(self._resource(kind).path(namespace or "default", name)))

    def items(self, kind: str, namespace: str | None, selector: str) -> list[dict[str, object]]:
        """All objects of a kind in a namespace (None: in all), as kubectl gives them. Raises NotReadError."""
        query = f"?{urlencode({'labelSelector': selector})}" if selector else ""
        listed = self._read(self._resource(kind).path(namespace) + query)
        head = {"apiVersion": listed["apiVersion"], "kind": str(listed["kind"]).removesuffix("List")}
        return [_shown(head | item) for item in _members(listed, "items")]

    def close(self) -> None:
        """End the proxy."""
        self._end()
        self._directory.cleanup()

    def _end(self) -> None:
        if self._process:
            self._process.communicate()  # closes the pipe, and waits
            self._process = None

    def _resource(self, kind: str) -> Resource:
        if kind not in self._resources:
            self._resources = self._discover()  # it may have come lately
        if kind not in self._resources:
            raise NotReadError("", f'error: the server doesn\'t have a resource type "{kind}"')
        return self._resources[kind]

    def _discover(self) -> dict[str, Resource]:
        known: dict[str, Resource] = {}
        for root in ("/api", "/apis"):
            for group in _members(self._read(root, DISCOVERY), "items"):
                versions = _members(group, "versions")
                metadata = group.get("metadata")
                name = str(metadata.get("name") or "") if isinstance(metadata, Mapping) else ""
                for version in versions[:1]:  # the one that the server prefers
                    base = f"{root}/{name}/{version['version']}" if name else f"{root}/{version['version']}"
                    for entry in _members(version, "resources"):
                        _remember(known, entry, base, name)
        return known

    def _read(self, path: str, accept: str = "application/json") -> dict[str, object]:
        """One GET; asked to come later (429), it does so, as kubectl would."""
        deadline = time.monotonic() + LATER_SECONDS
        while True:
            status, told = self._ask(path, accept)
            if status == http.client.OK:
                return told
            if status != http.client.TOO_MANY_REQUESTS or time.monotonic() > deadline:
                raise NotReadError(str(told.get("reason") or ""), str(told.get("message") or f"status {status}"))
            time.sleep(0.2)

    def _ask(self, path: str, accept: str) -> tuple[int, dict[str, object]]:
        self._ensure()
        connection = _Connection(self._socket)
        try:
            connection.request("GET", path, headers={"Accept": accept})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotReadError("", f"the API server can't be reached: {error}") from error
        finally:
            connection.close()
        try:
            return answer.status, dict(json.loads(body))
        except ValueError:
            return answer.status, {"message": body.decode(errors="replace")}

    def _ensure(self) -> None:
        if self._process and self._process.poll() is None:
            return
        self._end()
        self._socket.unlink(missing_ok=True)
        words = ["sh", "-c", WITH_US, "sh", *self._proxy(self._socket)]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE)
        deadline = time.monotonic() + START_SECONDS
        while not self._socket.exists():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise NotReadError("", "kubectl proxy did not start")
            time.sleep(0.02)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=READ_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _remember(known: dict[str, Resource], entry: Mapping[str, object], base: str, group: str) -> None:
    """Under all of its names, as kubectl knows it; the first group that has a name keeps it."""
    plural = str(entry["resource"])
    resource = Resource(base, plural, entry.get("scope") == "Namespaced")
    short = entry.get("shortNames")
    names = [plural, str(entry.get("singularResource") or plural), *(short if isinstance(short, list) else [])]
    for one in names:
        known.setdefault(str(one), resource)
        known.setdefault(f"{one}.{group}", resource)


def _shown(item: dict[str, object]) -> dict[str, object]:
    """An object as kubectl shows it: without the owners of its fields."""
    metadata = item.get("metadata")
    if isinstance(metadata, Mapping):
        item["metadata"] = {name: value for name, value in metadata.items() if name != "managedFields"}
    return item


def _members(value: Mapping[str, object], name: str) -> list[dict[str, object]]:
    found = value.get(name)
    return [dict(one) for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []
