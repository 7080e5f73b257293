"""What every scenario asks of a run in the end."""

from collections.abc import Collection

from e2e.harness.kubectl import dig
from e2e.harness.lab import Attempt, Lab, Run
from e2e.harness.wait import eventually

INFRA = frozenset({"PodLost", "Drained", "Evicted", "NodeLost", "LeaseExpired", "SidecarLost", "ProcessCrashed"})


def succeeded(run: Run, steps: int = 20, timeout: float = 90) -> list[Attempt]:
    """The run ends with the right result, and no finished step of it ran twice; returns its attempts."""
    run.wait("Succeeded", timeout=timeout)
    return right(run, steps)


def right(run: Run, steps: int = 20) -> list[Attempt]:
    """Like `succeeded`, of a run that has ended already."""
    assert run.result() == {"total": sum(range(steps))}
    assert run.repeats() == [], "finished steps were executed again"
    recorded = run.records()
    assert len(recorded) == steps
    attempts = run.attempts()
    assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert [attempt.reason for attempt in attempts][-1] == "Succeeded"
    assert attempts[0].cause == "first"
    return attempts


def resumed(attempts: list[Attempt], acknowledged: int) -> None:
    """The second attempt went on behind what was acknowledged when the first one was lost."""
    assert len(attempts) == 2, attempts
    assert attempts[1].resumed_after >= acknowledged, attempts


def lost_to_infrastructure(run: Run, attempts: list[Attempt], reasons: Collection[str] = INFRA) -> None:
    """The first attempt was lost without burning one of the task's own, and the next began for that cause."""
    assert attempts[0].infra, attempts[0]
    assert not attempts[0].counted, attempts[0]
    assert attempts[0].reason in reasons, attempts[0]
    assert attempts[1].cause == "infra", attempts[1]
    assert run.row()["attempts_counted"] == 0


def untouched(run: Run, attempts: list[Attempt]) -> None:
    """One attempt did it all: the fault cost nothing."""
    assert len(attempts) == 1, attempts
    assert run.row()["attempts_counted"] == 0


def told(run: Run, *words: str) -> None:
    """An Event of the run has all the words."""

    def look() -> bool:
        events = run.lab.kubectl.items("events", run.lab.namespace)
        mine = [str(one.get("message")) for one in events if dig(one, "involvedObject", "name") == run.name]
        return any(all(word in text for word in words) for text in mine)

    eventually(f"an Event with {words}", look, 30, diagnose=run.diagnose)


def over(lab: Lab, pod: str) -> bool:
    """Whether nothing of the pod runs any more."""
    found = lab.kubectl.find("pod", pod, lab.namespace)
    return found is None or dig(found, "status", "phase") in {"Succeeded", "Failed"}
