"""What a bare API server still lacks: policy objects for Calico, cluster DNS, volumes, and a first pod to warm it."""

import hashlib
import json
from pathlib import Path

from e2e.cluster import storage
from e2e.cluster.binaries import PAUSE_IMAGE, calico_crds
from e2e.cluster.kubectl import Kubectl
from e2e.cluster.layout import FIRST, SERVER, STATE, Place
from e2e.cluster.pki import Pki
from e2e.cluster.processes import Daemon
from e2e.cluster.shell import wait_until

HERE = Path(__file__).resolve().parent
VOLUMES = STATE / "volumes"
MARK = STATE / "run/addons"


def ensure_objects(kubectl: Kubectl) -> None:
    """Apply the objects Felix and the nodes need before the first pod; nothing to do when they are there."""
    parts = [*calico_crds(), HERE / "manifests/calico.yaml", HERE / "manifests/dns.yaml"]
    digest = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
    if MARK.exists() and MARK.read_text() == digest:
        return
    kubectl("apply", "--server-side", "-f", str(calico_crds()[0].parent))
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    for name in ("calico", "dns"):
        kubectl.apply_text((HERE / f"manifests/{name}.yaml").read_text())
    storage.ensure(kubectl, VOLUMES)
    MARK.parent.mkdir(parents=True, exist_ok=True)
    MARK.write_text(digest)


def dns(binaries: Path, pki: Pki) -> tuple[Daemon, list[str | Path], Path]:
    """CoreDNS: the daemon, its command line and its Corefile. No forwarder: names outside the cluster do not exist."""
    corefile = STATE / "Corefile"
    corefile.write_text(f"""cluster.local:53 in-addr.arpa:53 {{
  bind {FIRST.ip}
  errors
  kubernetes cluster.local in-addr.arpa {{
    endpoint {SERVER}
    tls {pki.crt("coredns")} {pki.key("coredns")} {pki.crt("ca")}
  }}
  cache 5
}}
.:53 {{
  bind {FIRST.ip}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
""")
    command: list[str | Path] = [*FIRST.in_network(), binaries / "coredns", "-conf", corefile]
    return Daemon("coredns", STATE / "run", STATE / "log"), command, corefile


def warm(kubectl: Kubectl, place: Place) -> None:
    """Run one pod to its start: the first one pays for cold caches, and no measurement should."""
    name = f"warm-{place.name}"
    account = ("serviceaccount", "default", "-n", "default")
    wait_until("the default ServiceAccount", lambda: bool(kubectl.value("{.metadata.name}", *account)), 30)
    container = {"name": "pause", "image": PAUSE_IMAGE, "imagePullPolicy": "Never"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": place.name, "terminationGracePeriodSeconds": 0, "containers": [container]},
    }
    kubectl("delete", "pod", name, "-n", "default", "--ignore-not-found", "--wait=true")
    kubectl("create", "-f", "-", text_in=json.dumps(pod))
    phase = ("pod", name, "-n", "default")
    wait_until("a first running pod", lambda: kubectl.value("{.status.phase}", *phase) == "Running", 90)
    kubectl("delete", "pod", name, "-n", "default", "--wait=false")
