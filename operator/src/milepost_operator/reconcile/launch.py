"""The launcher: wanted pods become Jobs. Only the leader of the current epoch; the store refuses any other."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from milepost_operator.domain.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from milepost_operator.domain.runs import Ending, OpenPod, PodOrder
from milepost_operator.domain.states import Reason
from milepost_operator.manifests import names, raw
from milepost_operator.manifests.job import PodSettings, build_job
from milepost_operator.manifests.raw import Object
from milepost_operator.ports.kube import Jobs
from milepost_operator.ports.store import Launches
from milepost_operator.reconcile.loop import each
from milepost_operator.reconcile.network import TaskNetworks
from milepost_operator.reconcile.pods import Pods, Sight, doubted, nodes_in_doubt
from milepost_operator.reconcile.room import Room

log = structlog.stdlib.get_logger(__name__)

AT_ONCE: Final = 8
MAX_HELD: Final = 256
MAX_PAUSE: Final = 15.0


@dataclass(slots=True)
class _Held:
    """An order in hand. Refused ones wait until `due`, and since `refused` (seconds of the monotonic clock)."""

    order: PodOrder
    refused: float | None = None
    due: float = 0.0
    pause: float = 1.0


def is_quota(message: str) -> bool:
    """Whether a refusal passes by itself: room may come."""
    return "exceeded quota" in message or "is being terminated" in message


class Launcher:
    """One turn: delete what is to be closed, then create Jobs for what is wanted. `epoch` is the leader's."""

    def __init__(
        self,
        store: Launches,
        jobs: Jobs,
        pods: Pods,
        settings: PodSettings,
        epoch: int,
        *,
        room: Room,
        networks: TaskNetworks,
        config_grace_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        on_launched: Callable[[], object] = lambda: None,
    ) -> None:
        self._on_launched = on_launched
        self._store = store
        self._room = room
        self._networks = networks
        self._jobs = jobs
        self._pods = pods
        self._settings = settings
        self._epoch = epoch
        self._grace = config_grace_seconds
        self._clock = clock
        self._held: dict[str, _Held] = {}

    async def turn(self) -> None:
        room = MAX_HELD - len(self._held)
        orders = list(await self._store.take_wanted(self._epoch, min(room, AT_ONCE * 4))) if room > 0 else []
        rows = await self._store.open_pods()  # after the orders: whose loss made one of them is among these
        sights = self._pods.sights()
        await self._close(rows, sights)
        self._forget(rows)
        now = self._clock()
        orders += [held.order for held in self._held.values() if held.due <= now]
        avoided = await self._in_doubt(rows, sights) if orders else ()
        await each(orders, lambda order: self.launch(order, avoided), at_once=AT_ONCE, what="launch")

    async def _close(self, rows: Sequence[OpenPod], sights: Mapping[str, Sight]) -> None:
        """Old pods go before new ones come."""
        closing = [row for row in rows if row.state == "closing" and row.pod_id in sights]
        await each(closing, lambda row: self._pods.settle(row, sights[row.pod_id]), at_once=AT_ONCE, what="close")

    async def _in_doubt(self, rows: Sequence[OpenPod], sights: Mapping[str, Sight]) -> Sequence[str]:
        """Nodes that may be lost. A leader that has just begun may not see their pods yet."""
        pods: list[Object] = []
        for row in filter(doubted, rows):
            sight = sights.get(row.pod_id)
            pods += sight.pods if sight else await self._jobs.pods_of(row.namespace, row.pod_id)
        return nodes_in_doubt(pods)

    def _forget(self, rows: Sequence[OpenPod]) -> None:
        wanted = {row.pod_id for row in rows if row.state in {"wanted", "creating"}}
        self._held = {pod_id: held for pod_id, held in self._held.items() if pod_id in wanted}

    async def launch(self, order: PodOrder, avoided: Sequence[str] = ()) -> None:
        """Create or adopt the Job of `order`, and say so; what can't be created ends the run or is tried again.
        `avoided`: see `build_job`.
        """
        self._held.setdefault(order.pod_id, _Held(order))
        try:
            await self._networks.before(order.namespace, order.task, order.network)
            job = await self._created(order, avoided)
        except ForbiddenError as error:
            await self._refused(order, str(error))
            return
        except (InvalidInputError, NotFoundError) as error:
            await self._hopeless(order, Reason.POD_REFUSED, f"the pod can't be created: {error}")
            return
        except ValueError as error:
            await self._hopeless(order, Reason.CONFIG, f"the pod can't be made: {error}")
            return
        if not await self._store.launched(self._epoch, order.pod_id, raw.uid(job)):
            await self._jobs.delete_job(order.namespace, names.job_name(order.pod_id), raw.uid(job))
        self._on_launched()
        self._held.pop(order.pod_id, None)

    async def _created(self, order: PodOrder, avoided: Sequence[str]) -> Object:
        try:
            return await self._jobs.create_job(build_job(order, self._settings, avoided))
        except ConflictError:
            job = await self._jobs.get_job(order.namespace, names.job_name(order.pod_id))
            if job is None:
                raise
            if raw.label(job, names.POD_LABEL) != order.pod_id:
                raise InvalidInputError("foreign-job", f"a Job {raw.name(job)} is there that is not ours") from None
            log.info("job_adopted", pod=order.pod_id)
            return job

    async def _refused(self, order: PodOrder, message: str) -> None:
        """A quota may have room later; any other refusal is final when it stays."""
        if order.ahead:  # nobody waits for it: the duty that wanted it tries again, ever later
            ending = Ending(Reason.POD_REFUSED, names.clipped(message, 2000), counted=False, started=False)
            await self._store.pod_ended(self._epoch, order.pod_id, None, ending, unheard=True)
            self._held.pop(order.pod_id, None)
            return
        held, now = self._held[order.pod_id], self._clock()
        if held.refused is None:
            held.refused = now
            await self._store.note_pod(order.pod_id, Reason.POD_REFUSED.value, names.clipped(message, 1000))
        if now - held.refused >= self._grace and not is_quota(message):
            await self._hopeless(order, Reason.POD_REFUSED, f"the API server refuses the pod: {message}")
            return
        if is_quota(message) and await self._room.make(order.pod_id, order.namespace):
            held.pause = 1.0  # what gives up its place is gone in a moment
        held.due = now + held.pause
        held.pause = min(held.pause * 2, MAX_PAUSE)

    async def _hopeless(self, order: PodOrder, reason: Reason, message: str) -> None:
        ending = Ending(reason, names.clipped(message, 2000), counted=False, final=True, started=False)
        await self._store.pod_ended(self._epoch, order.pod_id, None, ending, unheard=True)
        self._held.pop(order.pod_id, None)
