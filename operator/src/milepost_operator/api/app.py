"""The ASGI application, from parts that are handed in."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from milepost_operator.adapters.kube.tokenreview import PodIdentity
from milepost_operator.api.ahead import AheadApi
from milepost_operator.api.auth import Authentication
from milepost_operator.api.cursors import Cursors
from milepost_operator.api.decisions import DecisionsApi
from milepost_operator.api.direct import ShortWays, direct
from milepost_operator.api.edge import Edge
from milepost_operator.api.health import Health
from milepost_operator.api.lifecycle import LifecycleApi
from milepost_operator.api.next import NextApi, offers_of
from milepost_operator.api.objects import ObjectsApi, Values
from milepost_operator.api.openapi import DocumentedApp
from milepost_operator.api.pod import Limits, PodApi
from milepost_operator.api.podstreams import PodStreams
from milepost_operator.api.problems import problem
from milepost_operator.api.queues import QueuesApi
from milepost_operator.api.runs import RunsApi
from milepost_operator.api.schedules import SchedulesApi
from milepost_operator.api.sessions import Sessions
from milepost_operator.api.signals import SignalsApi
from milepost_operator.api.streams import StreamsApi
from milepost_operator.api.tokens import ApiTokens
from milepost_operator.api.triggers import TriggersApi
from milepost_operator.api.waiting import Waiters
from milepost_operator.obs.metrics import Metrics
from milepost_operator.ports.control import Control, QueueReads
from milepost_operator.ports.lifecycle import Lifecycle, Lists
from milepost_operator.ports.objects import Bucket, Objects
from milepost_operator.ports.prewarm import PrewarmPods
from milepost_operator.ports.schedules import ScheduleApi
from milepost_operator.ports.store import Intake, PodStore, Reads
from milepost_operator.ports.streams import Streams
from milepost_operator.ports.suspension import Signals
from milepost_operator.ports.triggers import Triggers
from milepost_operator.ports.warm import WarmPods


class ApiStore(
    Intake,
    Triggers,
    PodStore,
    WarmPods,
    PrewarmPods,
    Reads,
    Lists,
    Lifecycle,
    Control,
    QueueReads,
    ScheduleApi,
    Signals,
    Streams,
    Objects,
    Protocol,
):
    """The store as the routes need it."""


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Bytes. `namespaces`: those that are served, empty for all."""

    max_record_bytes: int = 1_048_576
    max_result_bytes: int = 1_048_576
    max_input_bytes: int = 1_048_576
    max_object_bytes: int = 67_108_864
    namespaces: Sequence[str] = ()


class Api(DocumentedApp):
    """The application, with a short way to its busiest handlers.

    They are behind the same authentication and the same edge as everything else; what is left out is the routing.
    """

    short = ShortWays()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        way = self.short.find(scope) if scope["type"] == "http" else None
        await (way or super().__call__)(scope, receive, send)


def build_app(
    store: ApiStore,
    identify: Callable[[str], Awaitable[PodIdentity]],
    settings: ApiSettings,
    *,
    sessions: Sessions,
    tokens: ApiTokens,
    metrics: Metrics,
    health: Health,
    poke: Callable[[], None],
    offers: Waiters[str] | None = None,
    bucket: Bucket | None = None,
) -> Api:
    """`identify` tells whose ServiceAccount token it is; `poke` is called when something may be admitted. `offers`:
    where pods wait for work (`offers_of`), for whoever gives them some. `bucket`: where large values go; None: nowhere.
    """
    app = Api(
        title="Milepost",
        version="v1",
        docs_url=None,
        redoc_url=None,
        exception_handlers={HTTPException: _http_problem},
        redirect_slashes=False,
    )
    waiters, listeners = Waiters(store.ended), Waiters(store.told)

    def moved() -> None:
        """A run ended here, or a slot is free."""
        waiters.nudge()
        listeners.nudge()
        poke()

    limits = Limits(settings.max_record_bytes, settings.max_result_bytes)
    pod = PodApi(store, identify=identify, sessions=sessions, limits=limits, metrics=metrics, poke=moved)
    chunks = PodStreams(store, limits=limits, metrics=metrics, told=listeners.nudge)
    cursors = Cursors(sessions.derived(b"cursors"))
    lifecycle = LifecycleApi(store, store, store, cursors, moved)
    values = Values(bucket, limit=settings.max_object_bytes, metrics=metrics)

    async def stored_result(run_id: UUID) -> Response | None:
        found = await store.object_of_result(run_id)
        return None if found is None else await values.answer(found)

    runs = RunsApi(store, store, store, store, cursors, waiters=waiters, poke=moved, stored=stored_result)
    triggers = TriggersApi(
        store,
        max_input_bytes=settings.max_input_bytes,
        namespaces=settings.namespaces,
        metrics=metrics,
        poke=poke,
    )
    streams = StreamsApi(store, named=runs.named, ended=store.ended, waiters=listeners)
    objects = ObjectsApi(store, store, values, metrics)
    following = NextApi(store, offers=offers or offers_of(store), metrics=metrics)
    inside = [*pod.routes(), *chunks.routes(), *objects.routes(), *following.routes(), *AheadApi(store).routes()]
    app.router.routes.extend(inside)
    queues = QueuesApi(store, store, store, poke=poke)
    schedules = SchedulesApi(store, namespaces=settings.namespaces)
    signals = SignalsApi(store, find=runs.find, poke=poke)
    decisions = DecisionsApi(store, find=runs.find, show=runs.show, poke=moved)
    for part in (health, lifecycle, triggers, runs, queues, schedules, signals, decisions, streams):
        app.include_router(part.router())
    busy = pod.direct() | triggers.direct() | runs.direct()
    fixed = frozenset(route.path for route in inside) | {path for _, path in busy}
    app.add_middleware(Authentication, sessions=sessions, tokens=tokens)
    app.add_middleware(Edge, metrics=metrics, fixed=fixed)
    app.short = ShortWays(
        {
            asked: Edge(Authentication(direct(handler), sessions, tokens), metrics, fixed)
            for asked, handler in busy.items()
        }
    )
    return app


async def _http_problem(_: Request, error: Exception) -> Response:
    return problem(error)
