"""Pods that wait for work, as their rows tell it."""

from collections.abc import Sequence
from dataclasses import dataclass

from e2e.harness.lab import Lab, Run
from e2e.harness.sql import literal
from e2e.harness.wait import eventually

SIDECAR = "milepost-sidecar"
ASKED = 'milepost_batch_requests_sum{batch="next"}'
AT_WORK = frozenset({"wanted", "creating", "created", "bound", "resting", "offered"})


@dataclass(frozen=True)
class Slot:
    """One pods row that is not closed. `pod` is None until its sidecar has come forward."""

    pod_id: str
    pod: str | None
    task: str
    version: int
    state: str


def slots(lab: Lab, task: str | None = None) -> list[Slot]:
    """The open rows of a namespace, or of one of its Tasks, oldest first."""
    chosen = f"namespace = {literal(lab.namespace)} and state <> 'closed'"
    if task:
        chosen += f" and task = {literal(task)}"
    query = f"select pod_id, pod_name pod, task, version, state from pods where {chosen} order by created_at"
    return [Slot(**row) for row in lab.sql.rows(query)]  # type: ignore[arg-type]  # the columns are named as the fields


def idle(lab: Lab, task: str | None = None) -> list[Slot]:
    """Those that wait for a run."""
    return [slot for slot in slots(lab, task) if slot.state == "idle"]


def settled(lab: Lab, task: str, number: int = 1, timeout: float = 20) -> list[Slot]:
    """Wait until exactly so many of a Task's pods wait and none is at work; returns them."""

    def look() -> list[Slot] | None:
        found = slots(lab, task)
        if any(slot.state in AT_WORK for slot in found):
            return None
        waiting = [slot for slot in found if slot.state == "idle"]
        return waiting if len(waiting) == number else None

    return eventually(f"{number} pods of {task} that wait", look, timeout, 0.3, lab.diagnose)


def none_left(lab: Lab, task: str | None = None, timeout: float = 30) -> None:
    """Wait until every row is closed."""
    eventually("the end of every pod", lambda: not slots(lab, task), timeout, 0.3, lab.diagnose)


def row_state(lab: Lab, slot: Slot) -> str:
    """State of a slot's row, whatever became of it."""
    return str(lab.sql.value(f"select state from pods where pod_id = {literal(slot.pod_id)}"))


def all_asked(lab: Lab) -> bool:
    """Whether as many have asked the api for work, since it began, as wait in the whole cluster."""
    waiting = lab.sql.value("select count(*) from pods where state = 'idle'")
    asked = sum(float(line.split()[-1]) for line in lab.release.metrics("api") if line.startswith(ASKED))
    return asked >= int(str(waiting))


def sidecar_asks(lab: Lab, slot: Slot) -> bool:
    """Whether the sidecar that runs now has begun to ask for work."""
    return '"idle"' in lab.kubectl.attempt("logs", str(slot.pod), "-n", lab.namespace, "-c", SIDECAR)


def pods_of(runs: Sequence[Run]) -> list[str]:
    """The pod that each run's last attempt had."""
    return [str(run.attempts()[-1].pod) for run in runs]
