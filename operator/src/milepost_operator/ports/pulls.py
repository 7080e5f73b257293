"""The store for images that are pulled ahead. As all ports, see ports.store."""

from collections.abc import Sequence
from typing import Protocol

from milepost_operator.domain.pulls import PullNote, PullOrder


class Pulls(Protocol):
    """The operator's leader. DeposedError when a newer epoch leads."""

    async def open_pulls(self, epoch: int, limit: int, *, more: bool) -> Sequence[PullOrder]:
        """The oldest pulls that are not over. `more`: each version that is new has its own by now."""

    async def note_pull(self, epoch: int, pull_id: str, note: PullNote) -> None:
        """How far a pull is; one that is over stays so."""
