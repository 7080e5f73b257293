"""The store for pods that stay after an attempt and take the next one. As all ports, see ports.store."""

from collections.abc import Sequence
from typing import Protocol

from milepost.wire.pod import NextRequest
from milepost_operator.domain.errors import MilepostError
from milepost_operator.domain.runs import PodSession
from milepost_operator.domain.warm import HandedOver


class WarmPods(Protocol):
    """What sidecars ask for between attempts."""

    async def next_work(self, requests: Sequence[tuple[PodSession, NextRequest]]) -> Sequence[bool | MilepostError]:
        """Pods that have nothing to do wait for work from here on, or end if they say so. Per pod whether an attempt is
        reserved to it, GoneError: it is to end, or ForbiddenError.
        """

    async def still_waiting(self, pod_ids: Sequence[str]) -> Sequence[str]:
        """Those of these pods that have neither work nor a reason to end."""


class WarmDuties(Protocol):
    """Periodic work, safe from any replica at any time."""

    async def hand_over(self, admitted: int = 0) -> HandedOver:
        """Give attempts whose pods are not there yet to idle pods of the same warm key. A pod that was launched for one
        of them waits for work once it is up, or closes where that would be too many. `admitted`: so many are new; the
        launcher is told of those that are left.
        """

    async def keep_warm(self) -> int:
        """Take back what was offered and not begun, and end pods that wait for nothing any more, or are too many; how
        many pods.
        """


class WarmLaunches(Protocol):
    """The operator's leader. DeposedError when a newer epoch leads."""

    async def retire_pod(self, epoch: int, pod_id: str, why: str) -> None:
        """A pod that has no attempt at work can't take one any more: its row closes, what was offered to it is wanted
        again. Nothing happens to one that is at work.
        """

    async def make_room(self, epoch: int, namespace: str | None) -> bool:
        """End the idle pod that is needed least, of the namespace (None: of all). False: there is none."""
