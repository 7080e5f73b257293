"""Conditions of Tasks that no change of the Task itself brings about: what its pods and its image are known for."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from milepost_operator.domain.prewarm_views import TaskFacts
from milepost_operator.manifests import raw
from milepost_operator.manifests.raw import Manifest, Object
from milepost_operator.ports.kube import Objects
from milepost_operator.ports.prewarm import TaskReads
from milepost_operator.reconcile.conditions import Said, merged
from milepost_operator.reconcile.loop import each
from milepost_operator.reconcile.project import AT_ONCE, Bucket
from milepost_operator.reconcile.task_status import tell_task

PREWARMED: Final = "Prewarmed"
IMAGE_PULLED: Final = "ImagePulled"
NOT_FORK_SAFE: Final = "NotForkSafe"
OWN: Final = (PREWARMED, IMAGE_PULLED, NOT_FORK_SAFE)
_TOLD: Final = 5


def said_of(facts: TaskFacts) -> list[Said]:
    """What a Task's conditions of these kinds say."""
    return [one for one in (_prewarmed(facts), _pulled(facts), _fork_safe(facts)) if one is not None]


def _prewarmed(facts: TaskFacts) -> Said | None:
    """Of Tasks that say how many pods they want; of others only why those that were foretold don't start."""
    if facts.target is None or not (facts.least or facts.held_back == "Trouble"):
        return None
    if facts.held_back:
        return Said(PREWARMED, False, facts.held_back, facts.message)
    fewer = f" (of {facts.least}: no more can be at work at once)" if facts.target < facts.least else ""
    return Said(PREWARMED, True, "Kept", f"{facts.target} pods{fewer} are there at least, or on their way")


def _pulled(facts: TaskFacts) -> Said | None:
    of = f"the image of version {facts.version}"
    match facts.pull:
        case "pulled":
            return Said(IMAGE_PULLED, True, "Pulled", f"{of} is on {facts.nodes} nodes")
        case "wanted" | "pulling" | "failed":
            waits = facts.pull_message or f"{of} is on its way"
            return Said(IMAGE_PULLED, False, facts.pull_reason or "Pulling", waits)
        case _:
            return None


def _fork_safe(facts: TaskFacts) -> Said | None:
    if not facts.left:
        return None
    more = f" and {len(facts.left) - _TOLD} more" if len(facts.left) > _TOLD else ""
    return Said(
        NOT_FORK_SAFE,
        True,
        "ImportLeaves",
        f"the import of version {facts.version} leaves {', '.join(facts.left[:_TOLD])}{more}: the runs of a pod would "
        "share it, so each imports the task anew, in a process of its own, and starts later by the time of that; do it "
        "in the task",
    )


def patched(body: Object, said: Sequence[Said], now: datetime) -> list[Manifest] | None:
    """All conditions of a Task as they should be; None where they are."""
    shown = raw.parts(body, "status", "conditions")
    gone = {kind for kind in OWN if kind not in {one.type for one in said}}
    kept = [dict(one) for one in merged(body, said, now) if raw.text(one, "type") not in gone]
    return None if _told(kept) == _told(shown) else kept


def _told(conditions: Sequence[Object]) -> set[tuple[str, ...]]:
    return {tuple(raw.text(one, key) for key in ("type", "status", "reason", "message")) for one in conditions}


class TaskNotes:
    """`tasks`: the Tasks as they were last seen. What another writer of a Task's conditions undid is told again."""

    def __init__(
        self,
        store: TaskReads,
        objects: Objects,
        bucket: Bucket,
        *,
        tasks: Callable[[], Sequence[Object]],
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._objects = objects
        self._bucket = bucket
        self._tasks = tasks
        self._clock = clock

    async def turn(self) -> None:
        facts = {(one.namespace, one.task): one for one in await self._store.task_facts()}
        due: list[tuple[Object, list[Manifest]]] = []
        for body in self._tasks():
            known = facts.get((raw.namespace(body), raw.name(body)))
            conditions = patched(body, said_of(known) if known else [], self._clock())
            if conditions is not None:
                due.append((body, conditions))
        await each(due, self._tell, at_once=AT_ONCE, what="task notes")

    async def _tell(self, due: tuple[Object, list[Manifest]]) -> None:
        body, conditions = due
        await self._bucket.take()
        version = raw.text(body, "metadata", "resourceVersion")  # of what was read: no other writer's word is lost
        await tell_task(
            self._objects, raw.namespace(body), raw.name(body), {"conditions": conditions}, resource_version=version
        )
