"""The pod protocol in memory: one run, fenced attempts, and faults on demand."""

import asyncio
import json
import ssl
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from milepost.net.messages import ProblemError, Request, Response, compact
from milepost.net.server import Budget, ServerConnection
from milepost.wire.delta import loaded, spliced
from tests.fakes.piped import Piped

Fault = Literal["drop-before", "drop-after"] | int
"""Lose the request, lose the answer after the commit, or answer with this status."""


class Dropped(BaseException):
    """The connection is cut."""


@dataclass
class Stored:
    seq: int
    kind: str
    key: str
    value: str
    types: str | None
    fingerprint: str | None
    attempt: int
    write_id: str
    failed: bool = False
    depth: int = 0
    object_bytes: int = 0

    def line(self) -> bytes:
        members = {k: v for k, v in vars(self).items() if k != "write_id"}
        if self.object_bytes:
            members["value"] = ""
        return compact(members) + b"\n"

    def plain_line(self) -> bytes:
        members = {k: v for k, v in vars(self).items() if k != "write_id"}
        text = members.pop("value").translate(str.maketrans("\r\n", "  "))
        if members.pop("object_bytes"):
            del members["depth"]
            return compact(members | {"object_bytes": self.object_bytes}) + b"\n"
        if text != self.value:
            del members["depth"]
        return b'%b,"value":%b}\n' % (compact(members)[:-1], text.encode())


@dataclass
class FakeApi:
    """`settlements`: every settling that committed, newest last; `seen`: routes in the order of their requests."""

    start: dict[str, object] = field(default_factory=dict)
    attempt: int = 1
    token: int = 1
    cancel: bool = False
    down: bool = False
    closed: bool = False
    kubernetes_down: bool = False
    records: list[Stored] = field(default_factory=list)
    settlements: list[dict] = field(default_factory=list)
    large_results: list[str] = field(default_factory=list)
    """Those in object storage."""
    chunks: list[dict] = field(default_factory=list)
    max_stream_bytes: int = 16_777_216
    seen: list[str] = field(default_factory=list)
    beats: list[dict] = field(default_factory=list)
    sessions: int = 0
    faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    session_seconds: int = 900
    break_records_after: int | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    valid: set[str] = field(default_factory=set)
    port: int = 0
    deltas: list[str] = field(default_factory=list)
    refuses_deltas: bool = False
    plain: bool = True
    refuses_objects: str = ""
    """Why, as of an object storage that is not as it should be."""

    def values(self, kind: str = "step") -> dict[str, object]:
        """Give what is recorded, by key."""
        return {r.key: json.loads(r.value) for r in self.records if r.kind == kind}

    def next_attempt(self) -> None:
        """Let a new attempt begin; the one before is fenced."""
        self.attempt += 1
        self.token += 1

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait for a state of the api."""
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(holds)

    async def wake(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["FakeApi"]:
        budget = Budget(2**30)

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await ServerConnection(self, budget, Piped(reader, writer)).serve()
            except (Dropped, ConnectionError):
                writer.transport.abort()

        server = await asyncio.start_server(connected, "127.0.0.1", self.port, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    # -- what a server serves

    def body_limit(self, _request: Request) -> int:
        return 2**26

    def streams(self, _request: Request) -> bool:
        return False

    def waits(self, _request: Request) -> bool:
        return False

    def failed(self, _request: Request | None, error: Exception) -> None:
        raise error

    async def handle(self, request: Request) -> Response:
        route = request.path.removeprefix("/pod/v1")
        self.seen.append(route)
        await self.wake()
        if self.down:
            raise Dropped
        fault = self.faults[route].popleft() if self.faults[route] else None
        if fault == "drop-before":
            raise Dropped
        if isinstance(fault, int):
            headers = [("Retry-After", "0")] if fault == 503 else []
            raise ProblemError(fault, "fault", "as the test wants it", headers=headers)
        response = self._answer(route, request)
        await self.wake()
        if fault == "drop-after":
            raise Dropped
        return response

    def _answer(self, route: str, request: Request) -> Response:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if route == "/session":
            return self._session(bearer)
        if bearer not in self.valid:
            raise ProblemError(401, "no-session", "unknown session token")
        if self.closed:
            raise ProblemError(410, "closed", "the pod's row is closed")
        if route == "/start":
            return self._start()
        if request.method == "GET":
            fence = request.query
            self._check(fence["run_id"], int(fence["attempt"]), int(fence["token"]))
            if route.endswith("/newest"):
                return self._newest(request)
            if route == "/objects":
                return Response(200, self.records[int(fence["seq"]) - 1].value.encode())
            return self._list(
                int(fence["after"]),
                newest=fence.get("newest") == "true",
                plain=self.plain and fence.get("lines") == "plain",
            )
        if route == "/objects":
            return self._object(*request.body.split(b"\n", 1))
        body = json.loads(request.body)
        fence = body["fence"]
        if route == "/settle":
            return self._settle(body)
        self._check(fence["run_id"], fence["attempt"], fence["token"])
        if route == "/heartbeat":
            self.beats.append(body)
            return ok({"directive": "cancel" if self.cancel else "continue", "grace_seconds": 1 if self.cancel else 0})
        if route == "/stream":
            return ok({"positions": [self._tell(chunk) for chunk in body["chunks"]]})
        return ok({"seqs": [self._write(write) for write in body["records"]]})

    def _session(self, bearer: str) -> Response:
        if bearer not in self.valid and self.kubernetes_down:
            raise ProblemError(503, "kubernetes-down", "tokens can't be reviewed")
        if bearer not in {"pod-token", *self.valid}:
            raise ProblemError(401, "bad-token", "not the pod's token")
        self.sessions += 1
        token = f"session-{self.sessions}"
        self.valid.add(token)
        return ok({"token": token, "expires_in_seconds": self.session_seconds, "new_member": 1})

    def _start(self) -> Response:
        last = self.records[-1] if self.records else None
        return ok({
            "run_id": "run-1", "run_name": "r1", "namespace": "default", "task": "demo", "version": 1,
            "attempt": self.attempt, "token": self.token, "cause": "first" if self.attempt == 1 else "retry",
            "input": "null", "tags": ["a"], "entrypoint": None, "command": None, "source": None, "max_attempts": 3,
            "attempt_seconds": 600, "lease_seconds": 10, "beat_seconds": 0.05, "max_record_bytes": 1048576,
            "max_result_bytes": 1048576, "grace_seconds": 1, "on_partition": "continue",
            "records": len(self.records), "last_seq": last.seq if last else 0, "last_key": last.key if last else None,
            "created_at": "2026-01-01T00:00:00Z", **self.start,
        })  # fmt: skip

    def _check(self, run_id: str, attempt: int, token: int) -> None:
        if (run_id, attempt, token) != ("run-1", self.attempt, self.token):
            raise ProblemError(409, "fenced", "a newer attempt runs")
        if self.settled:
            raise ProblemError(409, "settled", "the attempt is settled")

    @property
    def settled(self) -> bool:
        return any(s["fence"]["attempt"] == self.attempt for s in self.settlements)

    def _write(self, write: dict) -> int:
        for old in self.records:
            if old.write_id == write["write_id"]:
                return old.seq
            if write["kind"] == "step" and (old.kind, old.key) == ("step", write["key"]):
                raise ProblemError(409, "step-exists", f"{old.key} is recorded")
        seq = len(self.records) + 1
        self.records.append(Stored(seq=seq, attempt=self.attempt, **self._whole(write)))
        return seq

    def _object(self, line: bytes, value: bytes) -> Response:
        head = json.loads(line)
        self._check(head["fence"]["run_id"], head["fence"]["attempt"], head["fence"]["token"])
        assert head["size"] == len(value)
        if self.refuses_objects:
            raise ProblemError(507, "storage-refused", self.refuses_objects)
        if head["record"] is None:
            self.large_results.append(value.decode())
            return ok({"object": str(len(self.large_results))})
        write = {k: v for k, v in head["record"].items() if k not in {"delta", "base", "size"}}
        return ok({"seq": self._write(write | {"value": value.decode(), "object_bytes": len(value)})})

    def _whole(self, write: dict) -> dict:
        if "delta" not in write:
            return write
        self.deltas.append(write["delta"])
        seq = write.pop("base")
        base = next((r for r in self.records if r.seq == seq), None)
        if base is None or self.refuses_deltas:
            raise ProblemError(409, "unknown-base", "send it whole")
        whole = spliced(base.value, loaded(write.pop("delta")))
        assert len(whole.encode()) == write.pop("size")
        return write | {"value": whole, "depth": base.depth + 1}

    def _tell(self, chunk: dict) -> int:
        known = [told["write_id"] for told in self.chunks]
        if chunk["write_id"] in known:
            return known.index(chunk["write_id"]) + 1
        if sum(len(told["value"]) for told in self.chunks) + len(chunk["value"]) > self.max_stream_bytes:
            raise ProblemError(413, "stream-full", "a run's stream has at most so many bytes")
        self.chunks.append(chunk | {"attempt": self.attempt})
        return len(self.chunks)

    def _settle(self, body: dict) -> Response:
        fence = body["fence"]
        if not self.settled:
            self._check(fence["run_id"], fence["attempt"], fence["token"])
            self.settlements.append(body)
        elif fence["attempt"] != self.attempt:
            raise ProblemError(409, "fenced", "a newer attempt runs")
        return ok({"state": "succeeded" if self.settlements[-1]["outcome"] == "succeeded" else "backoff"})

    def _newest(self, request: Request) -> Response:
        for record in reversed(self.records):
            if (record.kind, record.key) == (request.query["kind"], request.query["key"]):
                return Response(200, record.line())
        raise ProblemError(404, "no-record", "none")

    def _list(self, after: int, *, newest: bool, plain: bool) -> Response:
        last = {r.key: r.seq for r in self.records if r.kind == "checkpoint"}
        told = [r for r in self.records if r.kind == "step" or not newest or last[r.key] == r.seq]

        async def lines() -> AsyncIterator[bytes]:
            for count, record in enumerate(r for r in told if r.seq > after):
                if count == self.break_records_after:
                    self.break_records_after = None
                    raise Dropped
                yield record.plain_line() if plain else record.line()

        headers = [("Milepost-Lines", "plain")] if plain else []
        return Response(200, headers=headers, content_type="application/x-ndjson", stream=lines())


def ok(members: dict) -> Response:
    return Response(200, compact(members))
