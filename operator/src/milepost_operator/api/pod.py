"""The pod protocol (milepost.wire.pod) for sidecars: plain handlers, since this is the hot path."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from milepost.wire.pod import (
    LINES,
    PLAIN,
    PREFIX,
    Fence,
    HeartbeatAnswer,
    HeartbeatRequest,
    RecordKind,
    RecordsAnswer,
    RecordsRequest,
    Session,
    SessionRequest,
    SettleAnswer,
    SettleRequest,
    Start,
)
from milepost_operator.adapters.kube.tokenreview import PodIdentity
from milepost_operator.api import checks, lines
from milepost_operator.api.auth import SESSION_PATH, bearer_of, session_of
from milepost_operator.api.batcher import Batcher
from milepost_operator.api.bodies import json_response, parse_wire, read_body
from milepost_operator.api.direct import Handler
from milepost_operator.api.sessions import TOKEN_PREFIX, TTL_SECONDS, Sessions
from milepost_operator.api.values import require_value
from milepost_operator.domain.errors import ForbiddenError, InvalidInputError, MilepostError, NotFoundError
from milepost_operator.domain.runs import PodSession
from milepost_operator.manifests.names import is_pod_of
from milepost_operator.obs.metrics import Metrics
from milepost_operator.ports.store import PodStore

Identify = Callable[[str], Awaitable[PodIdentity]]

_SESSION: Final = TypeAdapter(SessionRequest)
_RECORDS: Final = TypeAdapter(RecordsRequest)
_BEAT: Final = TypeAdapter(HeartbeatRequest)
_SETTLE: Final = TypeAdapter(SettleRequest)
_KINDS: Final[dict[str, RecordKind]] = {"step": "step", "checkpoint": "checkpoint"}

_SMALL_BODY: Final = 16_384
ENVELOPE: Final = 262_144
ESCAPING: Final = 3
"""JSON text inside a JSON string: quotes double, and a letter that needs an escape takes up to six bytes for two."""
_STARTS: Final = 32
"""In one batch: each answer carries an input."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of JSON text."""

    record: int
    result: int


class PodApi:
    """Handlers of `/pod/v1`. `poke`: something may be admitted now."""

    def __init__(
        self,
        store: PodStore,
        *,
        identify: Identify,
        sessions: Sessions,
        limits: Limits,
        metrics: Metrics,
        poke: Callable[[], None],
    ) -> None:
        self._store = store
        self._identify = identify
        self._sessions = sessions
        self._limits = limits
        self._metrics = metrics
        self._recorded = {kind: metrics.records.labels(kind) for kind in _KINDS.values()}
        self._poke = poke
        # A run that somebody has locked is left for a later batch: the others need not wait for it.
        self._start: Batcher[PodSession, Start] = Batcher(
            partial(store.start, wait=False), batch_observer(metrics, "start"), max_records=_STARTS
        )
        self._settle: Batcher[tuple[PodSession, SettleRequest], str] = Batcher(
            partial(store.settle, wait=False), batch_observer(metrics, "settle")
        )
        self._append: Batcher[tuple[PodSession, RecordsRequest], list[int]] = Batcher(
            store.append, batch_observer(metrics, "records")
        )
        self._beat: Batcher[tuple[PodSession, HeartbeatRequest], HeartbeatAnswer] = Batcher(
            store.beat, batch_observer(metrics, "heartbeat")
        )

    def routes(self) -> list[Route]:
        """What belongs below the app's router."""
        return [
            Route(SESSION_PATH, self.session, methods=["POST"]),
            Route(f"{PREFIX}/start", self.start, methods=["POST"]),
            Route(f"{PREFIX}/records", self.append, methods=["POST"]),
            Route(f"{PREFIX}/records", self.records, methods=["GET"]),
            Route(f"{PREFIX}/records/newest", self.newest, methods=["GET"]),
            Route(f"{PREFIX}/heartbeat", self.heartbeat, methods=["POST"]),
            Route(f"{PREFIX}/settle", self.settle, methods=["POST"]),
        ]

    def direct(self) -> dict[tuple[str, str], Handler]:
        """The handlers of what every sidecar sends all the time, by method and path."""
        return {("POST", f"{PREFIX}/records"): self.append, ("POST", f"{PREFIX}/heartbeat"): self.heartbeat}

    async def session(self, request: Request) -> Response:
        """Prove a pod. A still valid session token renews itself too: through an outage of Kubernetes."""
        token = bearer_of(request)
        asked = parse_wire(_SESSION, await read_body(request, _SMALL_BODY, "it only names the pod"))
        renewal = token.startswith(TOKEN_PREFIX)
        try:
            answer = await self._open(token, asked, renewal=renewal)
        except MilepostError as error:
            self._metrics.pod_sessions.labels(error.code).inc()
            raise
        self._metrics.pod_sessions.labels("renewed" if renewal else "granted").inc()
        return json_response(answer)

    async def _open(self, token: str, asked: SessionRequest, *, renewal: bool) -> Session:
        pod_id = asked.pod_id
        if renewal:
            claims = self._sessions.verify(token)
            namespace, pod_uid, pod_name = claims.session.namespace, claims.session.pod_uid, claims.pod_name
        else:
            identity = await self._identify(token)
            namespace, pod_uid, pod_name = identity.namespace, identity.pod_uid, identity.pod_name
        if not is_pod_of(pod_name, pod_id):
            raise ForbiddenError("this token is of another pod")
        session = await self._store.open_session(pod_id, namespace, pod_uid, pod_name, reusable=asked.reusable)
        return Session(self._sessions.sign(session, pod_name), TTL_SECONDS)

    async def start(self, request: Request) -> Response:
        return json_response(await self._start.submit(session_of(request)))

    async def append(self, request: Request) -> Response:
        session = session_of(request)
        limit = self._limits.record
        body = await read_body(request, ESCAPING * limit + ENVELOPE, f"a record may have {limit}")
        asked = parse_wire(_RECORDS, body)
        checks.require_fence(asked.fence)
        checks.require_count(len(asked.records), "records")
        size = 0
        for index, record in enumerate(asked.records):
            checks.require_record(record, f"$.records[{index}]")
            checks.require_delta(record, limit, f"$.records[{index}]")
            text = record.value if record.delta is None else record.delta
            await require_value(text, limit, "record-too-large", f"the value of {record.key!r}")
            if record.types is not None:
                await require_value(record.types, limit, "record-too-large", f"the types of {record.key!r}")
            size += len(text)
        seqs = await self._append.submit((session, asked), records=len(asked.records), size=len(body))
        for record in asked.records:
            self._recorded[record.kind].inc()
        self._metrics.record_bytes.inc(size)
        return json_response(RecordsAnswer(seqs))

    async def records(self, request: Request) -> Response:
        session, fence = session_of(request), fence_of(request)
        after, newest = integer_of(request, "after", "0"), request.query_params.get("newest") == "true"
        await self._store.check_fence(session, fence)
        plain = request.query_params.get("lines") == PLAIN
        told = lines.packets(self._store.records(fence, after, newest=newest), lines.plain if plain else lines.whole)
        first = await anext(told, b"")  # errors before the first line are still told as such
        headers = {LINES: PLAIN} if plain else None
        return StreamingResponse(_rest(first, told), headers=headers, media_type="application/x-ndjson")

    async def newest(self, request: Request) -> Response:
        session, fence = session_of(request), fence_of(request)
        key = request.query_params.get("key", "")
        kind = _KINDS.get(request.query_params.get("kind", ""))
        if kind is None:
            raise InvalidInputError("invalid-field", "kind is step or checkpoint", "kind")
        checks.require_text(key, "key")
        await self._store.check_fence(session, fence)
        record = await self._store.newest(fence, kind, key)
        if record is None:
            raise NotFoundError(f"there is no {kind} {key!r}")
        return json_response(record)

    async def heartbeat(self, request: Request) -> Response:
        session = session_of(request)
        beat = parse_wire(_BEAT, await read_body(request, _SMALL_BODY, "progress is a short text"))
        checks.require_fence(beat.fence)
        return json_response(await self._beat.submit((session, checks.mended_beat(beat))))

    async def settle(self, request: Request) -> Response:
        session = session_of(request)
        limit = self._limits.result
        body = await read_body(request, ESCAPING * limit + ENVELOPE, f"a result may have {limit}")
        asked = checks.mended_settle(parse_wire(_SETTLE, body))
        checks.require_fence(asked.fence)
        checks.require_result(asked)
        if asked.result is not None:
            await require_value(asked.result, limit, "result-too-large", "the result")
        state = await self._settle.submit((session, asked), size=len(body))
        self._poke()
        self._metrics.settled.labels(state, asked.failure.kind if asked.failure else asked.outcome).inc()
        self._metrics.used(asked.evidence)
        return json_response(SettleAnswer(state))


def batch_observer(metrics: Metrics, batch: str) -> Callable[[int, float], None]:
    """What a batcher tells its metrics."""
    requests, seconds = metrics.batch_requests.labels(batch), metrics.batch_seconds.labels(batch)

    def observe(count: int, took: float) -> None:
        requests.observe(count)
        seconds.observe(took)

    return observe


def fence_of(request: Request) -> Fence:
    """The attempt that the query names."""
    run_id = request.query_params.get("run_id", "")
    fence = Fence(run_id, integer_of(request, "attempt"), integer_of(request, "token"))
    checks.require_fence(fence, "query")
    return fence


def integer_of(request: Request, name: str, default: str = "") -> int:
    """A number of the query. Raises InvalidInputError."""
    text = request.query_params.get(name, default)
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(2**63)):
        raise InvalidInputError("invalid-field", f"the query parameter {name!r} has to be a whole number", name)
    return int(text)


async def _rest(first: bytes, more: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for chunk in more:
        yield chunk
