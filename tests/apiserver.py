"""A private API server on a private etcd: Kubernetes' own answers, without nodes and controllers."""

import asyncio
import shutil
import socket
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from e2e.cluster.binaries import kube_programs
from e2e.cluster.pki import Pki
from e2e.cluster.processes import Daemon
from e2e.cluster.shell import Problem, wait_until
from milepost_operator.adapters.kube.client import APPLY, KubeClient, KubeNotFound, KubeUnavailable
from milepost_operator.adapters.kube.config import from_kubeconfig
from milepost_operator.crds.generate import RESOURCES, all_crds

API = "/apis/milepost.dev/v1beta1"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
HOST = "127.0.0.1"
START_SECONDS = 50.0
DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""Also a killed test session leaves no process behind; where there is no setpriv, only one that ends in order."""


@contextmanager
def running() -> Iterator[Path]:
    """Yield the kubeconfig of a cluster administrator; RBAC and the default admission plugins are on.

    Both processes and all files are gone afterwards, whatever happened within. Raises Problem when one does not start.
    """
    # Not below pytest's own directory: other sessions clean that up by age.
    with tempfile.TemporaryDirectory(prefix="milepost-apiserver-") as home, ExitStack() as processes:
        yield _start(Path(home), kube_programs(), processes)


def _start(home: Path, programs: Path, processes: ExitStack) -> Path:
    clients, peers, secure = free_ports(3)
    pki = Pki(home / "pki")
    server = f"https://{HOST}:{secure}"
    pki.ensure(server, [HOST])
    etcd, apiserver = (Daemon(name, home / "run", home / "log") for name in ("etcd", "kube-apiserver"))
    # Killed, the API server first: nothing of it is kept, and in order it would wait for its watches.
    for daemon, flags in ((etcd, _etcd(home, clients, peers)), (apiserver, _apiserver(pki, clients, secure))):
        processes.callback(daemon.kill)
        daemon.ensure([*(DIE_WITH_US if shutil.which(DIE_WITH_US[0]) else ()), programs / daemon.name, *flags])

    def ready() -> bool:
        for daemon in (etcd, apiserver):
            if daemon.pid() is None:
                raise Problem(f"{daemon.name} ended while it started:\n{daemon.last_words()}")
        return _answers(f"{server}/readyz", pki)

    try:
        wait_until("a ready API server", ready, START_SECONDS)
    except Problem as problem:
        raise Problem(f"{problem}\n{apiserver.last_words()}") from problem
    return pki.config("admin")


async def install_crds(kubeconfig: Path) -> None:
    """Apply our CRDs, and return when each kind is served."""
    async with KubeClient(from_kubeconfig(kubeconfig)) as kube:
        for crd in all_crds().values():
            body = yaml.safe_load(yaml.dump(crd))  # as a file of it would be read
            options = {"fieldManager": "tests", "fieldValidation": "Strict"}
            await kube.patch(f"{CRDS}/{crd['metadata']['name']}", body, APPLY, options)
        async with asyncio.timeout(START_SECONDS):
            for resource in RESOURCES:
                while not await _served(kube, resource.plural):  # noqa: ASYNC110 (polls with a deadline)
                    await asyncio.sleep(0.05)


async def _served(kube: KubeClient, plural: str) -> bool:
    try:
        await kube.list(f"{API}/{plural}")
    except (KubeNotFound, KubeUnavailable):  # 429 while its storage begins
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that nobody uses now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


def _etcd(home: Path, clients: int, peers: int) -> list[str | Path]:
    ours, theirs = f"http://{HOST}:{clients}", f"http://{HOST}:{peers}"
    return [
        "--data-dir",
        home / "etcd",
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--listen-client-urls={ours}",
        f"--advertise-client-urls={ours}",
        f"--listen-peer-urls={theirs}",
        f"--initial-advertise-peer-urls={theirs}",
        f"--initial-cluster=default={theirs}",
    ]


def _apiserver(pki: Pki, clients: int, secure: int) -> list[str | Path]:
    return [
        f"--etcd-servers=http://{HOST}:{clients}",
        f"--bind-address={HOST}",
        f"--advertise-address={HOST}",
        f"--secure-port={secure}",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--endpoint-reconciler-type=none",  # a loopback address is no endpoint that it would take
        "--authorization-mode=RBAC",
        f"--client-ca-file={pki.crt('ca')}",
        f"--tls-cert-file={pki.crt('apiserver')}",
        f"--tls-private-key-file={pki.key('apiserver')}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki.home / 'sa.pub'}",
        f"--service-account-signing-key-file={pki.key('sa')}",
    ]


def _answers(url: str, pki: Pki) -> bool:
    context = ssl.create_default_context(cafile=str(pki.crt("ca")))
    context.load_cert_chain(pki.crt("admin"), pki.key("admin"))
    try:
        with urllib.request.urlopen(url, timeout=3, context=context) as answer:
            return int(answer.status) == 200
    except (urllib.error.URLError, OSError):
        return False
