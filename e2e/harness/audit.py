"""Writes to etcd, counted from the API server's own audit log: what Milepost asks of it, per run."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class Write:
    """One write that was answered: who, what, on which object."""

    user: str
    verb: str
    resource: str
    namespace: str
    name: str


def writes(lines: Iterable[str]) -> Iterator[Write]:
    """Read the writes that succeeded from lines of an audit log; a line still being written is left out."""
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        reference = entry.get("objectRef") or {}
        code = int((entry.get("responseStatus") or {}).get("code") or 0)
        if entry.get("verb") not in WRITES or not 200 <= code < 300 or entry.get("stage") != "ResponseComplete":
            continue
        resource = "/".join(part for part in (reference.get("resource"), reference.get("subresource")) if part)
        yield Write(
            user=str((entry.get("user") or {}).get("username", "")),
            verb=str(entry["verb"]),
            resource=resource,
            namespace=str(reference.get("namespace", "")),
            name=str(reference.get("name", "")),
        )


def ours(all_writes: Iterable[Write], accounts_in: str, namespace: str) -> Counter[tuple[str, str]]:
    """Count (verb, resource) of the writes that a release's service accounts made in one namespace.

    Args:
        all_writes: of the whole cluster.
        accounts_in: the release's namespace: its service accounts are ours.
        namespace: where the runs are; leases and other writes that no run causes are elsewhere.
    """
    prefix = f"system:serviceaccount:{accounts_in}:"
    return Counter(
        (write.verb, write.resource)
        for write in all_writes
        if write.user.startswith(prefix) and write.namespace == namespace
    )


@dataclass
class AuditLog:
    """A cluster's log, read from where `mark` was called."""

    path: Path
    _offset: int = 0

    def mark(self) -> None:
        """Begin to count here."""
        self._offset = self.path.stat().st_size

    def since(self) -> list[Write]:
        """The writes after the mark."""
        with self.path.open() as log:
            log.seek(self._offset)
            return list(writes(log))
