"""etcd, the API server, the controllers and the scheduler: processes in the first node's network."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.layout import FIRST, PODS, SERVER, SERVICES, STATE
from e2e.cluster.pki import Pki
from e2e.cluster.processes import Daemon
from e2e.cluster.shell import Problem, wait_until

ETCD = "http://127.0.0.1:2379"
ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIT_LOG = STATE / "log/audit.log"
# Writes only, without bodies, once each: what tests count to see how much we ask of etcd.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted", "Panic"],
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}
SCHEDULER = {
    "apiVersion": "kubescheduler.config.k8s.io/v1",
    "kind": "KubeSchedulerConfiguration",
    "leaderElection": {"leaderElect": False},
}


class ControlPlane:
    """Starts what is not running, in order; stops the API server before etcd, or it never ends."""

    def __init__(self, binaries: Path, pki: Pki) -> None:
        self.binaries = binaries
        self.pki = pki
        run, log = STATE / "run", STATE / "log"
        self.etcd, self.apiserver, self.kcm, self.scheduler = (
            Daemon(name, run, log) for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
        )

    def ensure_apiserver(self) -> None:
        """Run etcd and the API server, and return when it is ready."""
        etcd: list[str | Path] = ["--data-dir", STATE / "etcd", "--unsafe-no-fsync", "--log-level", "warn"]
        client = ["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]
        peer = ["--listen-peer-urls", "http://127.0.0.1:2380"]
        self._start(self.etcd, [*etcd, *client, *peer])
        policy = STATE / "audit-policy.json"
        policy.write_text(json.dumps(AUDIT_POLICY))
        AUDIT_LOG.parent.mkdir(parents=True, exist_ok=True)
        audit = [f"--audit-policy-file={policy}", f"--audit-log-path={AUDIT_LOG}", "--audit-log-maxsize=2000"]
        self._start(self.apiserver, [*self._apiserver_flags(), *audit], [policy])
        try:
            wait_until("a ready API server", self._ready_or_dead, 90)
        except Problem as problem:
            raise Problem(f"{problem}\n{self.apiserver.last_words()}") from problem

    def ensure_controllers(self) -> None:
        """Run the controllers and the scheduler; they need a ready API server to start at all."""
        self._start(self.kcm, self._kcm_flags())
        config = STATE / "scheduler.json"
        connection = {"kubeconfig": str(self.pki.config("scheduler")), "qps": 100, "burst": 200}
        config.write_text(json.dumps({**SCHEDULER, "clientConnection": connection}))
        access = self.pki.config("scheduler")
        delegate = [f"--authentication-kubeconfig={access}", f"--authorization-kubeconfig={access}"]
        self._start(self.scheduler, [f"--config={config}", *delegate], [config])

    def stop(self) -> None:
        for daemon in (self.scheduler, self.kcm, self.apiserver, self.etcd):
            daemon.stop()

    def ready(self) -> bool:
        """Whether the API server answers /readyz with ok."""
        context = ssl.create_default_context(cafile=str(self.pki.crt("ca")))
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.load_cert_chain(self.pki.crt("admin"), self.pki.key("admin"))
        try:
            with urllib.request.urlopen(f"{SERVER}/readyz", timeout=3, context=context) as answer:
                return int(answer.status) == 200
        except (urllib.error.URLError, OSError):
            return False

    def _ready_or_dead(self) -> bool:
        for daemon in (self.etcd, self.apiserver):
            if daemon.pid() is None:
                raise Problem(f"{daemon.name} ended while it started:\n{daemon.last_words()}")
        return self.ready()

    def _start(self, daemon: Daemon, flags: Sequence[str | Path], config: Sequence[Path] = ()) -> None:
        daemon.ensure([*FIRST.in_network(), self.binaries / daemon.name, *flags], config=config)

    def _apiserver_flags(self) -> list[str | Path]:
        pki = self.pki
        headers = {"username": "X-Remote-User", "group": "X-Remote-Group", "extra": "X-Remote-Extra-"}
        return [
            f"--etcd-servers={ETCD}",
            "--secure-port=6443",
            f"--advertise-address={FIRST.ip}",
            f"--service-cluster-ip-range={SERVICES}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--client-ca-file={pki.crt('ca')}",
            f"--tls-cert-file={pki.crt('apiserver')}",
            f"--tls-private-key-file={pki.key('apiserver')}",
            f"--kubelet-client-certificate={pki.crt('apiserver-kubelet')}",
            f"--kubelet-client-key={pki.key('apiserver-kubelet')}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={pki.home / 'sa.pub'}",
            f"--service-account-signing-key-file={pki.key('sa')}",
            f"--requestheader-client-ca-file={pki.crt('ca')}",
            "--requestheader-allowed-names=front-proxy",
            f"--requestheader-username-headers={headers['username']}",
            f"--requestheader-group-headers={headers['group']}",
            f"--requestheader-extra-headers-prefix={headers['extra']}",
            f"--proxy-client-cert-file={pki.crt('front-proxy')}",
            f"--proxy-client-key-file={pki.key('front-proxy')}",
        ]

    def _kcm_flags(self) -> list[str | Path]:
        access = self.pki.config("kcm")
        return [
            f"--kubeconfig={access}",
            f"--authentication-kubeconfig={access}",
            f"--authorization-kubeconfig={access}",
            f"--service-account-private-key-file={self.pki.key('sa')}",
            f"--root-ca-file={self.pki.crt('ca')}",
            f"--cluster-signing-cert-file={self.pki.crt('ca')}",
            f"--cluster-signing-key-file={self.pki.key('ca')}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            f"--cluster-cidr={PODS}",
            "--allocate-node-cidrs",
            # Tests lose nodes: seconds instead of the default 40 until a silent one is unreachable.
            "--node-monitor-grace-period=8s",
            "--node-monitor-period=2s",
            "--concurrent-job-syncs=20",
            "--kube-api-qps=100",
            "--kube-api-burst=200",
        ]
