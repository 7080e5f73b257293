"""A Task's pods as people see them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WarmView:
    """One Task at one moment. `idle`: pods that wait for work; `busy`: those with an attempt, or on their way back from
    one.

    `hits`: attempts of its newest runs that a waiting pod took; `misses`: those that needed a new pod. `cold_reason`:
    why the newest of these did; None where there is none.
    """

    namespace: str
    task: str
    idle: int
    busy: int
    hits: int
    misses: int
    cold_reason: str | None = None

    @property
    def empty(self) -> bool:
        """Nothing to tell of."""
        return not (self.idle or self.busy or self.hits or self.misses)
