# ruff: noqa: ARG002 (signatures of a port)
"""An API server in memory: names, uids, resourceVersions, status apart from spec, labels, merge patches, events.

It implements the ports `Jobs`, `Seen`, `Objects` and `Policies`. Nothing is garbage-collected; deleting a Job deletes
its pods.
"""

import copy
import itertools
from collections.abc import Sequence
from typing import Any

from milepost_operator.domain.errors import ConflictError, NotFoundError
from milepost_operator.manifests.names import MANAGED_BY, MANAGER, POD_LABEL

Body = dict[str, Any]


class FakeCluster:
    """`fail[method]`: an error to raise from that method, once for each entry of the list. `refuse[name]`: the error
    that this policy is refused with.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Body] = {}
        self.fail: dict[str, list[Exception]] = {}
        self.refuse: dict[str, Exception] = {}
        self.gone: list[Body] = []
        self.calls: list[tuple[str, str]] = []
        self.in_sync = True
        self.namespaces_gone: set[str] = set()
        self.api_server = ["10.96.0.1", "10.200.0.2"]
        self.crds_gone = False
        self._numbers = itertools.count(1)

    # what a test does

    def put(self, plural: str, body: Body) -> Body:
        """Create as a user would: status is dropped, generateName is completed."""
        made = copy.deepcopy(body)
        made.pop("status", None)
        number = next(self._numbers)
        metadata = made.setdefault("metadata", {})
        metadata.setdefault("namespace", "team")
        metadata.setdefault("name", f"{metadata.get('generateName', 'x-')}{number}")
        key = (plural, metadata["namespace"], metadata["name"])
        if key in self.objects:
            raise ConflictError("already-exists", f"{key} exists")
        metadata |= {"uid": f"uid-{number}", "resourceVersion": str(number), "generation": 1}
        self.objects[key] = made
        return copy.deepcopy(made)

    def put_pod(self, pod_id: str, status: Body, **metadata: Any) -> Body:
        pod = self.put("pods", {"metadata": {"labels": {POD_LABEL: pod_id}, **metadata}, "spec": {}})
        self.objects["pods", "team", pod["metadata"]["name"]]["status"] = status
        return pod

    def remove(self, plural: str, namespace: str, name: str) -> Body:
        body = self.objects.pop((plural, namespace, name))
        if plural == "pods":
            self.gone.append(body)
        return body

    def of(self, plural: str) -> list[Body]:
        return [copy.deepcopy(body) for (kind, _, _), body in self.objects.items() if kind == plural]

    # Jobs

    async def create_job(self, job: Any) -> Body:
        self._called("create_job", job["metadata"]["name"])
        return self.put("jobs", job)

    async def get_job(self, namespace: str, name: str) -> Body | None:
        self._called("get_job", name)
        return self.objects.get(("jobs", namespace, name))

    async def delete_job(self, namespace: str, name: str, uid: str | None = None) -> None:
        self._called("delete_job", name)
        found = self.objects.get(("jobs", namespace, name))
        if found is None or (uid and found["metadata"]["uid"] != uid):
            return
        del self.objects["jobs", namespace, name]
        for key, pod in list(self.objects.items()):
            if key[0] == "pods" and f"mp-{pod['metadata']['labels'][POD_LABEL]}" == name:
                self.gone.append(self.objects.pop(key))

    async def pods_of(self, namespace: str, pod_id: str) -> Sequence[Body]:
        self._called("pods_of", pod_id)
        return [p for p in self.of("pods") if p["metadata"]["labels"].get(POD_LABEL) == pod_id]

    async def events_about(self, namespace: str, uid: str) -> Sequence[Body]:
        return [e for e in self.of("events") if e["involvedObject"].get("uid") == uid]

    # Seen

    def synced(self) -> bool:
        return self.in_sync

    def jobs(self) -> Sequence[Body]:
        return self.of("jobs")

    def pods(self) -> Sequence[Body]:
        return self.of("pods")

    def gone_pods(self) -> Sequence[Body]:
        return list(self.gone)

    # Objects

    async def create_run(self, body: Any) -> Body:
        self._called("create_run", body["metadata"]["name"])
        return self.put("runs", body)

    async def get_object(self, plural: str, namespace: str, name: str) -> Body | None:
        self._called("get_object", name)
        return copy.deepcopy(self.objects.get((plural, namespace, name)))

    async def patch_object(self, plural: str, namespace: str, name: str, patch: Any) -> Body:
        self._called("patch_object", name)
        return self._patched(plural, namespace, name, {key: patch[key] for key in patch if key != "status"})

    async def patch_status(self, plural: str, namespace: str, name: str, patch: Any) -> Body:
        self._called("patch_status", name)
        return self._patched(
            plural, namespace, name, {key: patch[key] for key in patch if key in {"status", "metadata"}}
        )

    async def delete_object(self, plural: str, namespace: str, name: str, uid: str) -> None:
        self._called("delete_object", name)
        there = self.objects.get((plural, namespace, name))
        if there and there["metadata"]["uid"] == uid:
            self.remove(plural, namespace, name)

    async def create_event(self, event: Any) -> None:
        self._called("create_event", event["reason"])
        try:
            self.put("events", event)
        except ConflictError:
            return

    async def list_objects(self, plural: str, namespace: str | None) -> Sequence[Body]:
        self._called("list_objects", plural)
        return [b for b in self.of(plural) if namespace in (None, b["metadata"]["namespace"])]

    async def crd_present(self, plural: str) -> bool:
        return not self.crds_gone

    async def namespace_alive(self, namespace: str) -> bool:
        return namespace not in self.namespaces_gone

    # Policies

    async def list_policies(self, namespace: str | None) -> Sequence[Body]:
        self._called("list_policies", str(namespace))
        ours = [one for one in self.of("policies") if one["metadata"].get("labels", {}).get(MANAGED_BY) == MANAGER]
        return [one for one in ours if namespace in (None, one["metadata"]["namespace"])]

    async def create_policy(self, policy: Any) -> None:
        name = policy["metadata"]["name"]
        self._called("create_policy", name)
        if name in self.refuse:
            raise self.refuse[name]
        self.put("policies", policy)

    async def replace_policy(self, policy: Any) -> None:
        metadata = policy["metadata"]
        self._called("replace_policy", metadata["name"])
        found = self.objects.get(("policies", metadata["namespace"], metadata["name"]))
        if found is None:
            raise NotFoundError(f"no policy {metadata['name']}")
        found |= {"metadata": found["metadata"] | metadata, "spec": copy.deepcopy(policy["spec"])}

    async def delete_policy(self, namespace: str, name: str, uid: str) -> None:
        self._called("delete_policy", name)
        there = self.objects.get(("policies", namespace, name))
        if there and there["metadata"]["uid"] == uid:
            self.remove("policies", namespace, name)

    async def api_server_addresses(self) -> Sequence[str]:
        self._called("api_server_addresses", "")
        return list(self.api_server)

    def _called(self, method: str, name: str) -> None:
        self.calls.append((method, name))
        if self.fail.get(method):
            raise self.fail[method].pop(0)

    def _patched(self, plural: str, namespace: str, name: str, patch: Body) -> Body:
        found = self.objects.get((plural, namespace, name))
        if found is None:
            raise NotFoundError(f"no {plural} {name}")
        uid = patch.get("metadata", {}).get("uid")
        if uid and uid != found["metadata"]["uid"]:
            raise ConflictError("conflict", "another uid")
        version = patch.get("metadata", {}).get("resourceVersion")
        if version and version != found["metadata"]["resourceVersion"]:
            raise ConflictError("conflict", "it was changed since")
        _merge(found, patch)
        found["metadata"]["resourceVersion"] = str(next(self._numbers))
        return copy.deepcopy(found)


def _merge(into: Body, patch: Body) -> None:
    for key, value in patch.items():
        if value is None:
            into.pop(key, None)
        elif isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = copy.deepcopy(value)
