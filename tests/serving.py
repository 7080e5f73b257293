"""The api's own server over a real store, as a process of its own: no Kubernetes, so that no pod gets a session."""

import asyncio
import multiprocessing
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from milepost_operator.adapters.kube.tokenreview import PodIdentity
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.api.app import ApiSettings, build_app
from milepost_operator.api.duties import Duties
from milepost_operator.api.health import Health
from milepost_operator.api.next import offers_of
from milepost_operator.api.server import Listener
from milepost_operator.api.sessions import Sessions
from milepost_operator.api.tokens import ApiTokens
from milepost_operator.domain.errors import UnauthenticatedError
from milepost_operator.obs.logging import configure_logging
from milepost_operator.obs.metrics import Metrics
from milepost_operator.settings import Settings

KEY = b"k" * 32
START_SECONDS = 120.0


@contextmanager
def serving(settings: Settings, token_file: Path, *, duties: bool = False) -> Iterator[str]:
    """The address of a server, which ends with the block. `duties`: the periodic ones run too."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = (settings.model_dump(), str(token_file), port, duties)
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=arguments, daemon=True)
    process.start()
    try:
        _wait(f"http://127.0.0.1:{port}/readyz")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.join(10)


def _wait(url: str) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def _serve(settings: dict[str, object], token_file: str, port: int, duties: bool) -> None:
    configure_logging("warning")
    asyncio.run(_run(Settings(**settings), Path(token_file), port, duties))  # type: ignore[arg-type]


async def _run(settings: Settings, token_file: Path, port: int, with_duties: bool) -> None:
    metrics = Metrics()
    async with PostgresStore.open(settings) as store:
        offers = offers_of(store)
        duties = Duties(store, metrics, offers=offers)
        app = build_app(
            store,
            _nobody,
            ApiSettings(max_input_bytes=settings.max_input_bytes),
            sessions=Sessions(KEY),
            tokens=ApiTokens(token_file),
            metrics=metrics,
            health=Health(store.ready, duties.ages),
            poke=duties.poke,
            offers=offers,
        )
        running = asyncio.create_task(duties.run()) if with_duties else None
        await Listener(app, port).serve()
        if running:
            running.cancel()


async def _nobody(token: str) -> PodIdentity:
    raise UnauthenticatedError(f"no pods here, and none with a token of {len(token)} characters")
