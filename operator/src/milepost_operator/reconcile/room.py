"""Room for pods that are refused or find no node: those that only wait for work give theirs up, one at a time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from milepost_operator.ports.warm import WarmLaunches

log = structlog.stdlib.get_logger(__name__)

PAUSE_SECONDS: Final = 2.0
"""Between two pods that end for the same one: what ends needs a moment to be gone."""
MOST_PODS: Final = 5
"""What fits nowhere, whoever goes, must not drive all of them out."""
_FORGET_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class _Made:
    """When room was made for a pod last, and by how many pods in all."""

    at: float
    pods: int


def is_full(message: str) -> bool:
    """Whether the scheduler says that a pod would fit if others were gone."""
    return "Insufficient" in message or "Too many pods" in message


class Room:
    """Remembers for whom it made room last, and where nobody waits. `clock`: monotonic seconds."""

    def __init__(self, store: WarmLaunches, epoch: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._epoch = epoch
        self._clock = clock
        self._made: dict[str, _Made] = {}
        self._none: dict[str | None, float] = {}

    async def make(self, pod_id: str, namespace: str | None) -> bool:
        """End an idle pod (of the namespace, None: any) for this one; True when room was made just now."""
        now = self._clock()
        last = self._made.get(pod_id, _Made(-_FORGET_SECONDS, 0))
        if now - last.at < PAUSE_SECONDS or (last.pods >= MOST_PODS and now - last.at < _FORGET_SECONDS):
            return False
        if now - self._none.get(namespace, -PAUSE_SECONDS) < PAUSE_SECONDS:
            return False  # hundreds may ask at once
        if not await self._store.make_room(self._epoch, namespace):
            self._none[namespace] = now
            return False
        self._made = {one: made for one, made in self._made.items() if now - made.at < _FORGET_SECONDS}
        self._made[pod_id] = _Made(now, self._made.get(pod_id, _Made(now, 0)).pods + 1)
        log.info("room_made", pod=pod_id, namespace=namespace)
        return True
