"""Where the API server is and who we are: in a pod, or from a kubeconfig."""

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubeConfigError(ValueError):
    """There is no usable configuration; says which file lacks what."""


@dataclass(frozen=True, slots=True)
class KubeConfig:
    """`token_file` is read anew from time to time, since kubelet rotates it; `token` is a fixed one."""

    server: str
    ssl_context: ssl.SSLContext | None
    token: str | None = None
    token_file: Path | None = None


def load() -> KubeConfig:
    """In a pod: its ServiceAccount. Else KUBECONFIG or ~/.kube/config. Raises KubeConfigError."""
    if os.environ.get("KUBECONFIG"):
        return from_kubeconfig(Path(os.environ["KUBECONFIG"].split(os.pathsep)[0]))
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster()
    return from_kubeconfig(Path.home() / ".kube" / "config")


def in_cluster() -> KubeConfig:
    """The pod's ServiceAccount, as kubelet mounts it."""
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    token_file, ca_file = _ACCOUNT / "token", _ACCOUNT / "ca.crt"
    for file in (token_file, ca_file):
        if not file.is_file():
            raise KubeConfigError(f"{file} is missing: does the pod mount its ServiceAccount token?")
    address = f"[{host}]" if ":" in host else host
    return KubeConfig(f"https://{address}:{port}", ssl.create_default_context(cafile=str(ca_file)), None, token_file)


def from_kubeconfig(path: Path) -> KubeConfig:
    """The current context of a kubeconfig with a client certificate, a token or a token file."""
    import yaml  # noqa: PLC0415 (only outside of clusters)

    try:
        config = yaml.safe_load(path.read_text())
        context = _named(config, "contexts", "context", config.get("current-context"))
        cluster = _named(config, "clusters", "cluster", context["cluster"])
        user = _named(config, "users", "user", context["user"])
        server = str(cluster["server"])
    except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise KubeConfigError(f"{path} is no usable kubeconfig: {error!r}") from error
    if "exec" in user or "auth-provider" in user:
        raise KubeConfigError(f"{path}: user {context['user']} needs a credential plugin; use a token or certificate")
    token_file = path.parent / user["tokenFile"] if "tokenFile" in user else None
    context_tls = _tls(cluster, user, path.parent) if server.startswith("https:") else None
    return KubeConfig(server.rstrip("/"), context_tls, user.get("token"), token_file)


def _named(config: Mapping[str, Any], table: str, kind: str, name: object) -> Mapping[str, Any]:
    for row in config[table]:
        if row["name"] == name:
            found: Mapping[str, Any] = row[kind]
            return found
    raise KeyError(f"{table} has no {name!r}")


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], base: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if "certificate-authority-data" in cluster:
        context.load_verify_locations(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    elif "certificate-authority" in cluster:
        context.load_verify_locations(cafile=str(base / cluster["certificate-authority"]))
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if "client-certificate-data" in user:
        _load_pair(context, user)
    elif "client-certificate" in user:
        context.load_cert_chain(str(base / user["client-certificate"]), str(base / user["client-key"]))
    return context


def _load_pair(context: ssl.SSLContext, user: Mapping[str, Any]) -> None:
    """OpenSSL takes a client's key from a file only: a private one, for as long as it takes."""
    pem = b"\n".join(base64.b64decode(user[part]) for part in ("client-certificate-data", "client-key-data"))
    with tempfile.NamedTemporaryFile(prefix="milepost-", suffix=".pem") as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
