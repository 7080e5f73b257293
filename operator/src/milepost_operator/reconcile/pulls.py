"""Images are pulled ahead: a short-lived Job for each new version, until its image is there or can't be had."""

from collections.abc import Sequence
from typing import Final

import structlog

from milepost_operator.domain.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from milepost_operator.domain.pulls import ENDED, PullNote, PullOrder
from milepost_operator.manifests import names, raw
from milepost_operator.manifests.job import PodSettings
from milepost_operator.manifests.pull import DEADLINE_SECONDS, build_pull_job, job_name
from milepost_operator.manifests.raw import Object
from milepost_operator.ports.kube import Jobs, Seen
from milepost_operator.ports.pulls import Pulls
from milepost_operator.reconcile import evidence
from milepost_operator.reconcile.ended import HOPELESS_IMAGE, IMAGE_TROUBLE
from milepost_operator.reconcile.loop import each
from milepost_operator.reconcile.network import TaskNetworks

log = structlog.stdlib.get_logger(__name__)

AT_ONCE: Final = 4
"""Pulls under way at a time: what a release of many Tasks brings is no reason to fill every node's link."""
_AFTER: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
"""A container is made of an image that is there."""


def decide(order: PullOrder, pods: Sequence[Object], wanted: int) -> PullNote:
    """How far a pull with these pods is; `wanted`: how many pods it has when all are made."""
    there = {raw.text(pod, "spec", "nodeName") for pod in pods if _there(pod)}
    over = order.age_seconds >= DEADLINE_SECONDS
    if there and (over or (len(pods) >= wanted and all(_there(pod) for pod in pods))):
        return PullNote("pulled", len(there))
    for pod in pods:
        why = raw.text(evidence.task(pod), "state", "waiting", "reason")
        if why in IMAGE_TROUBLE:
            said = raw.text(evidence.task(pod), "state", "waiting", "message") or why
            last = over or why in HOPELESS_IMAGE
            return PullNote("failed" if last else "pulling", len(there), why, names.clipped(said, 1000))
    for pod in pods:
        scheduled = raw.condition(pod, "PodScheduled")
        if scheduled.get("status") == "False":
            said = names.clipped(raw.text(scheduled, "message"), 1000)
            return PullNote("failed" if over else "pulling", len(there), "Unschedulable", said)
    if over:
        return PullNote("failed", 0, "DeadlineExceeded", f"not there after {DEADLINE_SECONDS} s")
    return PullNote("pulling", len(there))


def _there(pod: Object) -> bool:
    """Whether the pod's node has the image: its container was made, whatever came of it."""
    status = evidence.task(pod)
    state = raw.part(status, "state")
    return "running" in state or "terminated" in state or raw.text(state, "waiting", "reason") in _AFTER


class ImagePulls:
    """A turn of the leader's. `nodes`: on how many an image is pulled; 0: on none."""

    def __init__(
        self,
        store: Pulls,
        jobs: Jobs,
        seen: Seen,
        settings: PodSettings,
        epoch: int,
        *,
        networks: TaskNetworks,
        nodes: int,
    ) -> None:
        self._store = store
        self._networks = networks
        self._jobs = jobs
        self._seen = seen
        self._settings = settings
        self._epoch = epoch
        self._nodes = nodes
        self._told: dict[str, PullNote] = {}

    async def turn(self) -> None:
        if not self._seen.synced():
            return
        pods = [pod for pod in self._seen.pods() if raw.label(pod, names.PULL_LABEL)]
        orders = await self._store.open_pulls(self._epoch, AT_ONCE, more=self._nodes > 0)
        self._told = {order.pull_id: self._told[order.pull_id] for order in orders if order.pull_id in self._told}

        async def act(order: PullOrder) -> None:
            await self._act(order, [pod for pod in pods if raw.label(pod, names.PULL_LABEL) == order.pull_id])

        await each(orders, act, at_once=AT_ONCE, what="image pull")

    async def _act(self, order: PullOrder, pods: Sequence[Object]) -> None:
        if not order.current or self._nodes == 0:
            await self._end(order, PullNote("given-up"))
        elif order.state == "wanted":
            await self._begin(order)
        elif not pods and await self._jobs.get_job(order.namespace, job_name(order.pull_id)) is None:
            await self._end(order, PullNote("failed", 0, "Deleted", "the Job that pulled it was deleted"))
        else:
            await self._note(order, decide(order, pods, self._nodes))

    async def _begin(self, order: PullOrder) -> None:
        try:
            await self._networks.before(order.namespace, order.task, order.network)
            await self._jobs.create_job(build_pull_job(order, self._settings, self._nodes))
        except ConflictError:
            log.info("pull_adopted", task=order.task, pull=order.pull_id)
        except (ForbiddenError, InvalidInputError, NotFoundError) as error:
            await self._end(order, PullNote("failed", 0, "PodRefused", names.clipped(str(error), 1000)))
            return
        await self._note(order, PullNote("pulling"))

    async def _note(self, order: PullOrder, note: PullNote) -> None:
        if note.state in ENDED:
            await self._end(order, note)
        elif self._told.get(order.pull_id) != note:
            await self._store.note_pull(self._epoch, order.pull_id, note)
            self._told[order.pull_id] = note

    async def _end(self, order: PullOrder, note: PullNote) -> None:
        """The Job goes first: what dies in between does it again."""
        await self._jobs.delete_job(order.namespace, job_name(order.pull_id))
        await self._store.note_pull(self._epoch, order.pull_id, note)
        log.info("image_pull_over", task=order.task, version=order.version, state=note.state, reason=note.reason)
