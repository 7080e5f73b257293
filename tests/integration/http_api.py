"""The api's true server over a store, on a free port of this machine."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from milepost_operator.adapters.kube.tokenreview import PodIdentity
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.api.app import Api as App
from milepost_operator.api.app import ApiSettings, build_app
from milepost_operator.api.health import Health
from milepost_operator.api.server import Listener, listening_socket
from milepost_operator.api.sessions import Sessions
from milepost_operator.api.tokens import ApiTokens
from milepost_operator.domain.errors import UnauthenticatedError
from milepost_operator.obs.metrics import Metrics
from milepost_operator.ports.objects import Bucket
from tests.integration.engine import NS

TOKEN = "team-token-0123456789"


@dataclass
class Api:
    port: int
    client: httpx2.AsyncClient

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def trigger(self, **body: object) -> httpx2.Response:
        return await self.client.post("/v1/runs", json={"task": "index"} | body)


def app_of(
    store: PostgresStore,
    tokens: Path,
    identify: Callable[[str], Awaitable[PodIdentity]],
    *,
    bucket: Bucket | None = None,
    max_object_bytes: int = 67_108_864,
) -> App:
    """The api on a store, with the public API's tokens of a file; `identify` says whose a pod's token is."""
    return build_app(
        store,
        identify,
        ApiSettings(max_object_bytes=max_object_bytes),
        sessions=Sessions(b"k" * 32),
        tokens=ApiTokens(tokens),
        metrics=Metrics(),
        health=Health(store.ready, dict),
        poke=lambda: None,
        bucket=bucket,
    )


@asynccontextmanager
async def serving(
    store: PostgresStore, tmp: Path, cert: Path | None = None, key: Path | None = None
) -> AsyncIterator[Api]:
    """Until the block ends. With `cert` and `key`: by TLS, and `client` is of no use."""

    async def identify(_: str) -> PodIdentity:
        raise UnauthenticatedError("no pods here")

    tokens = tmp / "tokens"
    tokens.write_text(f"team:{NS}:{TOKEN}\n")
    app = app_of(store, tokens, identify)
    listener, socket = Listener(app, 0, cert, key), listening_socket(0)
    port = socket.getsockname()[1]
    work = asyncio.ensure_future(listener.serve([socket]))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
            yield Api(port, client)
    finally:
        listener.should_exit = True
        await work
