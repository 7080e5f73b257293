# ruff: noqa: ARG002 (signatures of a port)
"""A store that notes what it is told, with answers that a test sets."""

from typing import Any
from uuid import UUID

from milepost_operator.domain.errors import DeposedError
from milepost_operator.domain.runs import Created, OpenPod
from milepost_operator.domain.states import RunState

RUN_ID = UUID("5e0a9d2e-93a4-4b6e-8f0e-0d6f6d6a1b11")


class FakeStore:
    def __init__(self) -> None:
        self.rows: dict[str, OpenPod] = {}
        self.wanted: list[Any] = []
        self.told: list[tuple[Any, ...]] = []
        self.is_launched = True
        self.is_heard = False
        self.deposed = False
        self.projections: list[Any] = []
        self.manifests: list[tuple[str, str, str, str]] = []
        self.intents: list[tuple[str, str, str]] = []
        self.created: Created | Exception = Created(RUN_ID, "r", RunState.QUEUED, duplicate=False)
        self.queues: list[Any] = []
        self.taken: list[str] = []
        self.has_room = False
        self.scheduled: list[Any] = []
        self.warm: list[Any] = []
        self.states: dict[str, int] = {}
        self.networks: list[Any] = []
        self.findings: list[Any] = []
        self.facts: list[Any] = []
        self.pulls: list[Any] = []

    def row(self, state: str = "created", *, age: float = 60.0, pod_uid: str | None = None, grace: int = 0) -> OpenPod:
        pod_id = "abcdefgh01234567"
        self.rows[pod_id] = OpenPod(pod_id, "team", state, "j", pod_uid, RUN_ID, 1, age, grace)
        return self.rows[pod_id]

    def of(self, what: str) -> list[tuple[Any, ...]]:
        return [one[1:] for one in self.told if one[0] == what]

    async def warm_view(self, namespace):
        return list(self.warm)

    async def task_findings(self):
        return list(self.findings)

    async def task_facts(self):
        return list(self.facts)

    async def open_pulls(self, epoch, limit, *, more):
        self.told.append(("pulls", limit, more))
        return list(self.pulls)

    async def note_pull(self, epoch, pull_id, note):
        self.told.append(("pull", pull_id, note))

    async def pods_by_state(self):
        return dict(self.states)

    async def task_networks(self, namespace):
        return [one for one in self.networks if namespace in {None, one.namespace}]

    async def take_wanted(self, epoch, limit):
        if self.deposed:
            raise DeposedError("epoch is over")
        taken, self.wanted = self.wanted[:limit], self.wanted[limit:]
        return taken

    async def launched(self, epoch, pod_id, job_uid):
        self.told.append(("launched", pod_id, job_uid))
        return self.is_launched

    async def open_pods(self):
        return list(self.rows.values())

    async def note_pod(self, pod_id, reason, message):
        self.told.append(("note", reason, message))

    async def pod_digest(self, pod_id, digest):
        self.told.append(("digest", digest))

    async def pod_ended(self, epoch, pod_id, pod_uid, ending, *, unheard=False):
        if unheard and self.is_heard:
            return False
        self.told.append(("ended", pod_uid, ending))
        return True

    async def node_lost(self, pod_id, ending):
        self.told.append(("node lost", pod_id, ending))
        return True

    async def retire_pod(self, epoch, pod_id, why):
        self.told.append(("retired", pod_id, why))

    async def make_room(self, epoch, namespace):
        self.told.append(("room", namespace))
        return self.has_room

    async def close_pod(self, pod_id):
        self.told.append(("closed", pod_id))
        self.rows.pop(pod_id, None)

    async def apply_task(self, task):
        self.told.append(("task", task))
        return 7

    async def apply_schedules(self, namespace, task, schedules, kept=(), *, uid, generation):
        self.told.append(("schedules", schedules, kept))
        return self.taken

    async def task_schedules(self, since, shown):
        self.told.append(("task schedules", since))
        return [one for one in self.scheduled if since is None or one.changed_at >= since]

    async def remove_task(self, namespace, name, uid=None):
        self.told.append(("task removed", namespace, name))

    async def apply_queue(self, queue):
        self.told.append(("queue", queue))

    async def remove_queue(self, namespace, name, uid=None):
        self.told.append(("queue removed", namespace, name))

    async def create_run(self, run):
        self.told.append(("run", run))
        if isinstance(self.created, Exception):
            raise self.created
        return self.created

    async def cancel_run(self, run_id, who):
        self.told.append(("cancel", run_id))

    async def forget_cr(self, namespace, name, cr_uid):
        self.told.append(("forget", cr_uid))

    async def known_manifests(self, namespace):
        return self.manifests

    async def known_intents(self, namespace):
        return self.intents

    async def due(self, limit, progress_seconds):
        taken, self.projections = self.projections[:limit], self.projections[limit:]
        return taken

    async def projected(self, run_id, rev, cr_uid, events_upto, shown=None):
        self.told.append(("projected", rev, cr_uid, events_upto))

    async def lost_crs(self, present, before):
        self.told.append(("lost", present))
        return 0

    async def list_queues(self, namespace):
        return self.queues
