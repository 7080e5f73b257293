"""A small image with a shell, a web server and a netcat, for tests that look at the cluster itself."""

from pathlib import Path

from e2e.cluster import packages
from e2e.cluster.kubectl import Kubectl, Object
from e2e.images.oci import File, Image, layer, write_archive

IMAGE = "localhost/milepost/probe:1"
BUSYBOX = Path("/bin/busybox")
PORT = 8080
SERVE = f"echo hello > /tmp/index.html; exec busybox httpd -f -p {PORT} -h /tmp"


def archive(home: Path) -> Path:
    """Write the image's archive into `home`."""
    packages.ensure(packages.PROBE, home / "packages.log")
    files = [File("bin"), File("bin/busybox", BUSYBOX), File("bin/sh", link="busybox"), File("tmp", mode=0o1777)]
    target = home / "probe.oci"
    write_archive(target, [Image((IMAGE,), (layer(files),), {"Env": ["PATH=/bin"]})])
    return target


def pod(name: str, node: str = "", command: str = SERVE, **spec: object) -> Object:
    """A pod that runs a shell command, by default a web server that says hello."""
    container = {"name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", command]}
    container |= dict(spec.pop("container", {}))  # type: ignore[call-overload]
    fixed = {"terminationGracePeriodSeconds": 0, "containers": [container], **({"nodeName": node} if node else {})}
    metadata = {"name": name, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**fixed, **spec}}


def reaches(kubectl: Kubectl, namespace: str, source: str, address: str, port: int = PORT) -> bool:
    """Whether pod `source` gets a hello from the web server at an address."""
    request = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 2 {address} {port}"
    return "hello" in kubectl("exec", "-n", namespace, source, "--", "sh", "-c", request, check=False).stdout
