"""Images that are pulled before their runs come."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PullState = Literal["wanted", "pulling", "pulled", "failed", "given-up"]
ENDED: frozenset[PullState] = frozenset({"pulled", "failed", "given-up"})


@dataclass(frozen=True, slots=True)
class PullOrder:
    """A pull that is not over. `current`: its version still is its Task's; `shape`: of that version; `network`: what
    its Task says of it, now.
    """

    pull_id: str
    namespace: str
    task: str
    version: int
    state: PullState
    shape: Mapping[str, object]
    current: bool
    age_seconds: float
    network: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class PullNote:
    """How far it is: on `nodes` by now; where it does not come, a reason in CamelCase and what the node says."""

    state: PullState
    nodes: int = 0
    reason: str = ""
    message: str = ""
