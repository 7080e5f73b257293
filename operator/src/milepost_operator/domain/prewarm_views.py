"""What is known of a Task beside its runs, as people see it in its conditions."""

from collections.abc import Sequence
from dataclasses import dataclass

from milepost_operator.domain.pulls import PullState


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """One Task at one moment. `left`: what the import of its version leaves that its runs can't share.

    `target`: pods that it should have (None: nothing was decided), `cause`, `held_back`, `message`: as of
    domain.prewarm.Plan; `least`: the number that it names itself. `pull`: how far the pull of its image is (None: there
    is none), on `nodes`, with why it does not come.
    """

    namespace: str
    task: str
    version: int
    left: Sequence[str] = ()
    least: int = 0
    target: int | None = None
    cause: str | None = None
    held_back: str | None = None
    message: str = ""
    pull: PullState | None = None
    pull_reason: str = ""
    pull_message: str = ""
    nodes: int = 0
