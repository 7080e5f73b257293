"""The api process: two listeners (HTTPS for the API; plain HTTP for metrics and health) and the duties, in one loop."""

import asyncio
import contextlib
import gc
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from milepost_operator.adapters.kube.client import KubeClient
from milepost_operator.adapters.kube.tokenreview import TokenReviewer
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.api.app import ApiSettings, build_app
from milepost_operator.api.duties import Duties
from milepost_operator.api.health import Health
from milepost_operator.api.next import offers_of
from milepost_operator.api.sessions import KeyFileError, Sessions, read_session_key
from milepost_operator.api.storage import StorageDuties
from milepost_operator.api.tokens import ApiTokens
from milepost_operator.api.transport import Protocol
from milepost_operator.obs.logging import get_logger
from milepost_operator.obs.metrics import Metrics
from milepost_operator.ports.objects import Bucket
from milepost_operator.settings import Settings

KEEP_ALIVE_SECONDS: Final = 75
SHUTDOWN_SECONDS: Final = 5
RELOAD_SECONDS: Final = 10.0
TICKS: Final = 10
"""uvicorn ticks ten times a second."""
HEAD_SECONDS: Final = 20.0
"""For the head of a connection's first request, or of one whose first byte is there, to come in."""

Background = Callable[[], Coroutine[object, None, None]]

_log = get_logger(__name__)


async def run_api(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises KeyFileError, KubeConfigError or StorageError when files or addresses that it needs are unusable.
    """
    sessions = Sessions(read_session_key(settings.session_key_file))
    tokens = ApiTokens(settings.api_token_file)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        bucket = await open_bucket(settings, stack)
        store = await stack.enter_async_context(PostgresStore.open_when_up(settings))
        kube = await stack.enter_async_context(KubeClient(user_agent="milepost-api"))
        store.tell_starts(metrics.started)
        offers = offers_of(store)
        name, prefix = settings.object_storage_bucket, settings.object_storage_prefix
        storage = StorageDuties(store, bucket, metrics, name=name, prefix=prefix) if bucket else None
        duties = Duties(store, metrics, offers=offers, storage=storage)
        health = Health(store.ready, duties.ages)
        app = build_app(
            store,
            TokenReviewer(kube).identify,
            ApiSettings(
                max_record_bytes=settings.max_record_bytes,
                max_result_bytes=settings.max_result_bytes,
                max_input_bytes=settings.max_input_bytes,
                max_object_bytes=settings.max_object_bytes,
                namespaces=settings.watched_namespaces,
            ),
            sessions=sessions,
            tokens=tokens,
            metrics=metrics,
            health=health,
            poke=duties.poke,
            offers=offers,
            bucket=bucket,
        )
        main = Listener(app, settings.listen_port, settings.tls_cert_file, settings.tls_key_file)
        side = Listener(metrics_app(metrics, health), settings.metrics_port)
        gc.collect()
        gc.freeze()  # what there is stays: a full collection of it would hold up every request for tens of milliseconds
        await serve(main, side, duties.run, _every(RELOAD_SECONDS, tokens.reload, main.reload_certificate))


async def open_bucket(settings: Settings, stack: AsyncExitStack) -> Bucket | None:
    """The bucket for large values, if one is configured. Raises StorageError when that can't be one."""
    if not settings.object_storage_bucket:
        return None
    from milepost_operator.adapters.s3.bucket import S3Bucket  # noqa: PLC0415  (few installations pay for it)
    from milepost_operator.adapters.s3.config import bucket_config  # noqa: PLC0415

    config = bucket_config(settings)
    return await stack.enter_async_context(S3Bucket(config)) if config else None


async def serve(main: "Listener", side: "Listener", *background: Background) -> None:
    """Run both listeners and the background work; at a signal stop listening, finish what is under way, then return."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[None]] = [group.create_task(work()) for work in background]
        tasks.append(group.create_task(side.serve()))
        serving = group.create_task(main.serve())
        await stop.wait()
        _log.info("stopping")
        main.should_exit = True
        await serving
        side.should_exit = True
        for task in tasks[:-1]:
            task.cancel()


class Listener(uvicorn.Server):
    """One port, both address families, TLS when there are files for it. Signals are left to the process."""

    def __init__(self, app: ASGIApp, port: int, cert: Path | None = None, key: Path | None = None) -> None:
        if (cert is None) != (key is None):
            raise KeyFileError("set both MILEPOST_TLS_CERT_FILE and MILEPOST_TLS_KEY_FILE, or neither")
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
                ssl_certfile=cert,
                ssl_keyfile=key,
                ws="none",
            ),
        )
        self._port = port
        self._files = (cert, key) if cert is not None and key is not None else None
        self._loaded = self._stamp()
        self._waiting: dict[object, float] = {}

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS == 0:
            self.close_unfinished(time.monotonic())
        return await super().on_tick(counter)

    def close_unfinished(self, now: float) -> None:
        """Close connections whose request doesn't come: else whoever reaches the port could hold all descriptors."""
        waiting = [
            one
            for one in self.server_state.connections
            if isinstance(one, Protocol)
            and (one.cycle is None or one.cycle.response_complete)
            and one.timeout_keep_alive_task is None
        ]
        self._waiting = {one: self._waiting.get(one, now) for one in waiting}
        for one in waiting:
            if now - self._waiting[one] > HEAD_SECONDS:
                one.transport.abort()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        made = sockets or [listening_socket(self._port)]
        _log.info("listening", port=made[0].getsockname()[1], tls=self._files is not None)
        try:
            await super().serve(made)
        finally:
            for one in made:
                one.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def reload_certificate(self) -> None:
        """Take up renewed files for new connections; unusable ones are logged and the old pair stays."""
        stamp = self._stamp()
        if self._files is None or stamp == self._loaded or self.config.ssl is None:
            return
        try:
            self.config.ssl.load_cert_chain(*self._files)
            self._loaded = stamp
            _log.info("certificate_reloaded")
        except OSError as error:  # also ssl.SSLError: half-written, or a pair that doesn't match yet
            _log.error("certificate_unusable", error=str(error))

    def _stamp(self) -> tuple[int, ...]:
        return tuple(file.stat().st_mtime_ns for file in self._files or () if file.exists())


def metrics_app(metrics: Metrics, health: Health) -> Starlette:
    """Plain HTTP inside the cluster: `/metrics`, `/healthz`, `/readyz`."""

    async def exposition(_: Request) -> Response:
        return Response(metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return Starlette(routes=[Route("/metrics", exposition), *health.routes()])


def listening_socket(port: int) -> socket.socket:
    """All addresses, IPv6 and IPv4 where both are there. `port` 0: any free one."""
    try:
        listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=2048)
    except (OSError, ValueError):
        listener = socket.create_server(("", port), backlog=2048)
    # Inherited by each connection; asyncio leaves it out for listeners made this way, and answers would wait 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _every(seconds: float, *work: Callable[[], None]) -> Background:
    async def loop() -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                for one in work:
                    await asyncio.to_thread(one)
            except Exception:  # noqa: BLE001 (what is loaded stays in force)
                _log.exception("reload_failed")

    return loop
