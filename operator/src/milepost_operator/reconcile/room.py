"""Room for pods that are refused or find no node: those that only wait for work give theirs up, one at a time."""

import time
from collections.abc import Callable
from typing import Final

import structlog

from milepost_operator.ports.warm import WarmLaunches

log = structlog.stdlib.get_logger(__name__)

PAUSE_SECONDS: Final = 2.0
"""Between two pods that end for the same one: what ends needs a moment to be gone."""
_FORGET_SECONDS: Final = 60.0


class Room:
    """Remembers for whom it made room last. `clock`: monotonic seconds."""

    def __init__(self, store: WarmLaunches, epoch: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._epoch = epoch
        self._clock = clock
        self._made: dict[str, float] = {}

    async def make(self, pod_id: str, namespace: str | None) -> bool:
        """End an idle pod (of the namespace, None: any) for this one; True when room was made just now."""
        now = self._clock()
        if now - self._made.get(pod_id, -PAUSE_SECONDS) < PAUSE_SECONDS:
            return False
        self._made = {one: at for one, at in self._made.items() if now - at < _FORGET_SECONDS} | {pod_id: now}
        made = await self._store.make_room(self._epoch, namespace)
        if made:
            log.info("room_made", pod=pod_id, namespace=namespace)
        return made
