"""The configuration files of a node's programs."""

import json
from pathlib import Path

from e2e.cluster.binaries import PAUSE_IMAGE
from e2e.cluster.capabilities import POD_PIDS
from e2e.cluster.layout import DNS, SERVER, Place
from e2e.cluster.pki import Pki

__all__ = ["SERVER", "felix_environment", "write"]


def write(place: Place, binaries: Path, pki: Pki) -> None:
    """Write the node's files: containerd.toml, kubelet.json and the CNI chain."""
    cni = place.home / "cni"
    cni.mkdir(parents=True, exist_ok=True)
    (place.home / "containerd.toml").write_text(containerd(place, binaries))
    (place.home / "kubelet.json").write_text(json.dumps(kubelet(place, pki), indent=1))
    (cni / "10-calico.conflist").write_text(json.dumps(cni_chain(place, pki), indent=1))


def containerd(place: Place, binaries: Path) -> str:
    return f"""version = 3
root = "{place.home}/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE_IMAGE}"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ["{binaries}", "/usr/lib/cni"]
    conf_dir = "{place.home}/cni"
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = "{binaries}/runc"
      SystemdCgroup = false
"""


def kubelet(place: Place, pki: Pki) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "x509": {"clientCAFile": str(pki.crt("ca"))},
            "webhook": {"enabled": True},
            "anonymous": {"enabled": False},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{place.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "podLogsDir": str(place.home / "pod-logs"),
        "podPidsLimit": POD_PIDS,
        "maxPods": 110,
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "eventRecordQPS": 50,
        "kubeAPIQPS": 50,
        "kubeAPIBurst": 100,
        # Seconds matter to tests that lose a node; the controllers are told likewise.
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 8,
        # Images come from archives and cannot be pulled again: never collect them.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }


def cni_chain(place: Place, pki: Pki) -> dict[str, object]:
    calico = {
        "type": "calico",
        "datastore_type": "kubernetes",
        "nodename": place.name,
        "nodename_file_optional": True,
        "mtu": 1500,
        "log_level": "error",
        "log_file_path": str(place.log / "cni.log"),
        "policy_setup_timeout_seconds": 0,
        "endpoint_status_dir": str(place.home / "calico-run/endpoint-status"),
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": place.pods}]],
            "dataDir": str(place.home / "cni-addresses"),
        },
        "policy": {"type": "k8s"},
        "kubernetes": {"kubeconfig": str(pki.config("calico"))},
    }
    ports = {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "milepost", "plugins": [calico, ports]}


def felix_environment(place: Place, pki: Pki) -> dict[str, str]:
    felix = {
        "DATASTORETYPE": "kubernetes",
        "FELIXHOSTNAME": place.name,
        "IPTABLESBACKEND": "NFT",
        "IPV6SUPPORT": "false",
        "DEFAULTENDPOINTTOHOSTACTION": "ACCEPT",
        "ROUTESOURCE": "WorkloadIPs",
        "USAGEREPORTINGENABLED": "false",
        "XDPENABLED": "false",
        "BPFENABLED": "false",
        "VXLANENABLED": "false",
        "IPINIPENABLED": "false",
        "HEALTHENABLED": "true",
        "HEALTHHOST": place.ip,
        "ENDPOINTSTATUSPATHPREFIX": str(place.home / "calico-run"),
        "LOGFILEPATH": "none",
        "LOGSEVERITYFILE": "none",
        "LOGSEVERITYSYS": "none",
        "LOGSEVERITYSCREEN": "warning",
    }
    return {"KUBECONFIG": str(pki.config("calico")), **{f"FELIX_{key}": value for key, value in felix.items()}}
