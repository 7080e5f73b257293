"""What people see of pods that wait for work. As of `ports.store`: UnavailableError when Postgres can't answer."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from milepost_operator.domain.warm_views import WarmView


class WarmReads(Protocol):
    """Pods of Tasks, counted."""

    async def warm_view(self, namespace: str | None) -> Sequence[WarmView]:
        """Of each Task, by namespace and name; None: of all namespaces."""

    async def pods_by_state(self) -> Mapping[str, int]:
        """Pods that are not closed, by their state; a state without pods is left out."""
