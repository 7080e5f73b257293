"""The local protocol (`wire.local`): every route, and a clear answer for every misuse."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, replace
from typing import Final, Protocol

from milepost.net.messages import ProblemError, Request, Response, compact, unique_id
from milepost.sidecar import checks
from milepost.sidecar.forward import Forwarder
from milepost.sidecar.log import log
from milepost.sidecar.objects import Uploader
from milepost.sidecar.records import Reader
from milepost.sidecar.settle import Settlement, Settler
from milepost.sidecar.state import AttemptState
from milepost.wire.local import FAILED, FINGERPRINT, TYPES, USAGE, WRITE_ID
from milepost.wire.pod import ChunkWrite, Evidence, RecordKind, RecordWrite, Start
from milepost.wire.values import JSON

Handler = Callable[[Request, str], Awaitable[Response]]
SMALL_BODY: Final = 262144
"""Bytes of the largest progress report or failure."""
SAYING_TOO_LARGE: Final = 2
"""A body up to this many times the limit is read, to name its biggest path; a larger one is refused unread."""
UNSTARTED_LIMIT: Final = 1024 * 1024


class PodSide(Protocol):
    """What is of the pod rather than of one of its attempts."""

    async def next(self, asked: checks.Asked) -> Start:
        """Give the next attempt. Raises ProblemError: 410 when the pod has to end, 409 while its attempt is open."""

    def tell_left(self, left: list[str]) -> None:
        """Pass on what the import of the task left, in its own time."""


class Routes:
    """Serves one attempt."""

    def __init__(  # noqa: PLR0917
        self,
        state: AttemptState,
        forwarder: Forwarder,
        uploader: Uploader,
        reader: Reader,
        settler: Settler,
        pod: PodSide,
    ) -> None:
        self._state = state
        self._pod = pod
        self._forwarder = forwarder
        self._uploader = uploader
        self._reader = reader
        self._settler = settler
        self._fixed: dict[str, dict[str, Handler]] = {
            "/v1/attempt": {"GET": self._attempt},
            "/v1/records": {"GET": self._records},
            "/v1/stream": {"PUT": self._stream},
            "/v1/progress": {"PUT": self._progress},
            "/v1/result": {"PUT": self._result},
            "/v1/failure": {"PUT": self._failure},
            "/v1/suspension": {"PUT": self._suspension},
            "/v1/control": {"GET": self._control},
            "/v1/code": {"GET": self._code},
            "/v1/left": {"PUT": self._left},
            "/v1/next": {"POST": self._next},
            "/v1/healthz": {"GET": self._healthz},
        }
        self._keyed: dict[str, RecordKind] = {"/v1/checkpoints/": "checkpoint", "/v1/steps/": "step"}
        self._prefixes = tuple(self._keyed)

    def body_limit(self, request: Request) -> int:
        """Give the most bytes of body the request may have."""
        if request.method not in {"PUT", "POST"}:
            return SMALL_BODY
        start = self._state.start
        if start is not None and self.streams(request):
            return start.max_object_bytes
        if request.path.startswith((*self._prefixes, "/v1/stream")):
            return (start.max_record_bytes if start else UNSTARTED_LIMIT) * SAYING_TOO_LARGE
        if request.path == "/v1/result":
            return (start.max_result_bytes if start else UNSTARTED_LIMIT) * SAYING_TOO_LARGE
        return SMALL_BODY

    def streams(self, request: Request) -> bool:
        """Tell a value that is too large for a record, where such values go to object storage."""
        start = self._state.start
        if start is None or not start.max_object_bytes or request.method != "PUT":
            return False
        if request.path == "/v1/result":
            limit = start.max_result_bytes
        elif request.path.startswith(self._prefixes):
            limit = start.max_record_bytes
        else:
            return False
        return request.length is not None and request.length > limit

    def waits(self, request: Request) -> bool:
        """Tell the routes that wait."""
        return request.path in {"/v1/attempt", "/v1/control", "/v1/next", "/v1/code"}

    def failed(self, request: Request | None, error: Exception) -> None:
        """Log an error of our own."""
        log("internal-error", path=request.path if request else None, error=f"{type(error).__name__}: {error}")

    async def handle(self, request: Request) -> Response:
        """Answer a request. Raises ProblemError."""
        handlers, rest = self._find(request.path)
        handler = handlers.get(request.method)
        if handler is None:
            allowed = ", ".join(handlers)
            detail = f"{request.method} is not allowed here: {allowed}"
            raise ProblemError(405, "method-not-allowed", detail, headers=[("Allow", allowed)])
        return await handler(request, rest)

    def _find(self, path: str) -> tuple[dict[str, Handler], str]:
        if handlers := self._fixed.get(path):
            return handlers, ""
        if path.startswith(self._prefixes):
            return {"GET": self._get_record, "PUT": self._put_record}, path
        known = ", ".join([*self._fixed, *(f"{prefix}KEY" for prefix in self._keyed)])
        raise ProblemError(404, "no-such-route", f"no route {path}; there are {known}")

    def _kind_and_key(self, path: str) -> tuple[RecordKind, str]:
        prefix = next(p for p in self._keyed if path.startswith(p))
        return self._keyed[prefix], checks.key(path[len(prefix) :])

    async def _attempt(self, _request: Request, _rest: str) -> Response:
        known = await self._state.wait_known()
        if isinstance(known, Start):
            return attempt_response(known)
        # a runner that knows of no pod without an attempt: it loads the task once it has one, and is to come again by a
        # connection of that attempt
        response = attempt_response(await self._pod.next(checks.Asked("", 0, None, 0)))
        response.last = True
        return response

    async def _code(self, _request: Request, _rest: str) -> Response:
        known = await self._state.wait_known()
        if isinstance(known, Start):
            raise ProblemError(409, "has-attempt", "the pod has an attempt: GET /v1/attempt")
        return Response(200, compact(asdict(known)))

    async def _left(self, request: Request, _rest: str) -> Response:
        self._pod.tell_left(checks.left(request.body))
        return Response(204)

    async def _next(self, request: Request, _rest: str) -> Response:
        return attempt_response(await self._pod.next(checks.asked(request.body)))

    async def _records(self, request: Request, _rest: str) -> Response:
        self._state.check_open()
        return await self._reader.all_after(checks.sequence(request.query.get("after", "0")))

    async def _get_record(self, _request: Request, path: str) -> Response:
        kind, key = self._kind_and_key(path)
        self._state.check_open()
        return await self._reader.newest(kind, key)

    async def _put_record(self, request: Request, path: str) -> Response:
        kind, key = self._kind_and_key(path)
        start = self._state.check_open()
        large = request.pieces is not None
        text = "" if large else checks.value(request.body, start.max_record_bytes, kind, start.max_object_bytes)
        request.body = b""  # the text is what waits: not both
        write_id = checks.write_id(request.headers.get(WRITE_ID.lower()) or unique_id())
        types, fingerprint = request.headers.get(TYPES.lower()), request.headers.get(FINGERPRINT.lower())
        failed = checks.flag(request.headers.get(FAILED.lower(), "false"), kind)
        write = RecordWrite(write_id, kind, key, text, types, fingerprint, failed)
        if request.pieces is not None:
            seq = await self._uploader.record(write, request.length or 0, request.pieces)
        else:
            seq = await self._forwarder.put(write)
        return Response(200, compact({"seq": seq}))

    async def _stream(self, request: Request, _rest: str) -> Response:
        start = self._state.check_open()
        text = checks.value(request.body, start.max_record_bytes, "chunk")
        write_id = checks.write_id(request.headers.get(WRITE_ID.lower()) or unique_id())
        return Response(200, compact({"position": await self._forwarder.chunk(ChunkWrite(write_id, text))}))

    async def _progress(self, request: Request, _rest: str) -> Response:
        self._state.check_open()
        self._state.progress = checks.progress(request.body)
        return Response(204)

    async def _result(self, request: Request, _rest: str) -> Response:
        start = self._state.running()
        if request.pieces is not None:
            return await self._large_result(request, request.pieces)
        text = checks.value(request.body, start.max_result_bytes, "result", start.max_object_bytes)
        used = checks.usage(request.headers.get(USAGE.lower()))
        return await self._settle(Settlement(_identity(request), "succeeded", result=text, evidence=used))

    async def _large_result(self, request: Request, pieces: AsyncIterator[bytes]) -> Response:
        given = request.headers.get(WRITE_ID.lower())
        if self._state.phase == "settled" and given == self._state.settle_identity:
            return await self._settle(Settlement(given, "succeeded"))
        self._state.check_open()
        identity = checks.write_id(given) if given else unique_id()
        used = checks.usage(request.headers.get(USAGE.lower()))
        stored = await self._uploader.result(request.length or 0, pieces)
        return await self._settle(Settlement(identity, "succeeded", result_object=stored, evidence=used))

    async def _failure(self, request: Request, _rest: str) -> Response:
        self._state.running()
        failure, evidence = checks.failure(request.body)
        used = checks.usage(request.headers.get(USAGE.lower()))
        evidence = (
            replace(used, exit_code=evidence.exit_code, signal=evidence.signal) if used != Evidence() else evidence
        )
        return await self._settle(Settlement(_identity(request), "failed", failure=failure, evidence=evidence))

    async def _suspension(self, request: Request, _rest: str) -> Response:
        self._state.running()
        waits, used = checks.waits(request.body), checks.usage(request.headers.get(USAGE.lower()))
        return await self._settle(Settlement(_identity(request), "suspended", waits=waits, evidence=used))

    async def _settle(self, settlement: Settlement) -> Response:
        return Response(200, compact({"state": await self._settler.settle(settlement)}))

    async def _control(self, request: Request, _rest: str) -> Response:
        directive = await self._state.wait_directive(request.query.get("seen", ""))
        answer: dict[str, JSON] = {
            "directive": directive,
            "reason": self._state.reason,
            "grace_seconds": self._state.grace_seconds,
        }
        return Response(200, compact(answer))

    async def _healthz(self, _request: Request, _rest: str) -> Response:
        return Response(200, compact({"phase": self._state.phase}))


def attempt_response(start: Start) -> Response:
    """Tell the task's side of its attempt. The token is not for it."""
    facts = asdict(start)
    del facts["token"], facts["input"], facts["waits"]
    # values go in as the text they are
    waits = b",".join(_with_text(asdict(w) | {"value": None}, "value", w.value or "null") for w in start.waits)
    text = _with_text(facts, "input", start.input)
    return Response(200, b'%b,"waits":[%b]}' % (text[:-1], waits))


def _with_text(facts: dict[str, JSON], name: str, text: str) -> bytes:
    others = compact({key: value for key, value in facts.items() if key != name})
    return b'%b,"%b":%b}' % (others[:-1], name.encode(), text.encode())


def _identity(request: Request) -> str:
    if given := request.headers.get(WRITE_ID.lower()):
        return checks.write_id(given)
    return f"{request.path} {hashlib.sha256(request.body).hexdigest()}"
