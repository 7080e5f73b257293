"""Keys, certificates and kubeconfigs of a cluster; one authority signs everything."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.shell import run

DAYS = "3650"
CLIENT = "extendedKeyUsage=clientAuth"
# name of the key pair -> subject
CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "kcm": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
    "calico": "/CN=calico-node",
    "coredns": "/CN=system:coredns",
    "apiserver-kubelet": "/O=system:masters/CN=apiserver-kubelet",
    "front-proxy": "/CN=front-proxy",
}


@dataclass(frozen=True)
class Pki:
    """Files `<name>.key` and `<name>.crt` in `home`; `sa.key`/`sa.pub` sign and verify ServiceAccount tokens."""

    home: Path

    def ensure(self, server: str, addresses: list[str]) -> None:
        """Make what is missing: the authority, the API server at `server`, every client."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.crt("ca").exists():
            self._key("ca")
            extensions = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
            subject = ["-subj", "/CN=milepost-cluster-ca", "-days", DAYS]
            run(
                [
                    "openssl",
                    "req",
                    "-x509",
                    "-new",
                    "-key",
                    self.key("ca"),
                    *subject,
                    *extensions,
                    "-out",
                    self.crt("ca"),
                ]
            )
        if not (self.home / "sa.pub").exists():
            self._key("sa")
            run(["openssl", "pkey", "-in", self.key("sa"), "-pubout", "-out", self.home / "sa.pub"])
        names = [f"kubernetes{tail}" for tail in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
        alternatives = [f"DNS:{name}" for name in (*names, "localhost")] + [f"IP:{address}" for address in addresses]
        usage = f"extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName={','.join(alternatives)}"
        self.issue("apiserver", "/CN=kube-apiserver", usage)
        for client, identity in CLIENTS.items():
            self.issue(client, identity)
            self.kubeconfig(client, server)

    def key(self, name: str) -> Path:
        return self.home / f"{name}.key"

    def crt(self, name: str) -> Path:
        return self.home / f"{name}.crt"

    def config(self, name: str) -> Path:
        return self.home / f"{name}.kubeconfig"

    def issue(self, name: str, subject: str, extensions: str = CLIENT) -> None:
        """Sign a certificate for a new key unless it is there."""
        if self.crt(name).exists():
            return
        self._key(name)
        request = run(["openssl", "req", "-new", "-key", self.key(name), "-subj", subject]).stdout
        wanted = self.home / f"{name}.ext"
        wanted.write_text(extensions)
        authority: list[str | Path] = [
            "-CA",
            self.crt("ca"),
            "-CAkey",
            self.key("ca"),
            "-CAcreateserial",
            "-days",
            DAYS,
        ]
        signed = run(["openssl", "x509", "-req", *authority, "-extfile", wanted], text_in=request).stdout
        self.crt(name).write_text(signed)  # last, so that a half-made pair is made anew

    def kubeconfig(self, name: str, server: str) -> Path:
        """Write a kubeconfig that holds its keys itself, so that a copy of it works anywhere."""
        cluster = {"server": server, "certificate-authority-data": _base64(self.crt("ca"))}
        user = {"client-certificate-data": _base64(self.crt(name)), "client-key-data": _base64(self.key(name))}
        context = {"cluster": "milepost", "user": name}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "milepost", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "milepost", "context": context}],
            "current-context": "milepost",
        }
        target = self.config(name)
        target.touch(mode=0o600)
        target.write_text(json.dumps(config, indent=1))
        return target

    def _key(self, name: str) -> None:
        run(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", self.key(name)])


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
