"""What the counting Service heard, judged: pure functions over events.

A task reports `begin` and `end` around its body, `start` inside the body of a step, and `acked` once `ctx.step` has
returned, which it does only when the record is committed. So an execution of a step in a later attempt than the one
in which it was acknowledged is work done twice. The other way round is no fault: a step that was killed before its
acknowledgement has to be executed again.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Phase = Literal["begin", "start", "acked", "end"]


@dataclass(frozen=True, order=True)
class Event:
    """One report. `at`: seconds since the epoch, by the clock of the Service; `n`: order of arrival."""

    n: int
    at: float
    run: str
    attempt: int
    phase: str
    step: str = ""
    pod: str = ""

    @classmethod
    def parse(cls, raw: Mapping[str, object]) -> "Event":
        """Read what the Service gives."""
        return cls(
            n=int(str(raw["n"])),
            at=float(str(raw["at"])),
            run=str(raw["run"]),
            attempt=int(str(raw["attempt"])),
            phase=str(raw["phase"]),
            step=str(raw.get("step") or ""),
            pod=str(raw.get("pod") or ""),
        )


@dataclass(frozen=True)
class Repeat:
    """Step `step` of `run`, acknowledged in attempt `acknowledged`, was executed again in attempt `executed`."""

    run: str
    step: str
    acknowledged: int
    executed: int


def repeats(events: Iterable[Event], records: Mapping[tuple[str, str], int] | None = None) -> list[Repeat]:
    """Find the executions that came after an acknowledgement.

    Args:
        events: in any order.
        records: (run, step) to the attempt that committed its record, from the database: it knows of
            acknowledgements whose report was lost with the process.
    """
    known: dict[tuple[str, str], int] = dict(records or {})
    ordered = sorted(events)
    for event in ordered:
        if event.phase == "acked":
            key = (event.run, event.step)
            known[key] = min(known.get(key, event.attempt), event.attempt)
    found: list[Repeat] = []
    for (run, step, attempt), count in _executions(ordered).items():
        acknowledged = known.get((run, step))
        if acknowledged is None:
            continue
        extra = count if attempt > acknowledged else count - 1 if attempt == acknowledged else 0
        found += [Repeat(run, step, acknowledged, attempt)] * extra
    return found


def _executions(events: Iterable[Event]) -> Counter[tuple[str, str, int]]:
    return Counter((event.run, event.step, event.attempt) for event in events if event.phase == "start")


def executions(events: Iterable[Event]) -> int:
    """Count the step bodies that were begun."""
    return sum(event.phase == "start" for event in events)


def most_alive(events: Iterable[Event]) -> int:
    """Give the largest number of user processes alive at one time.

    A process lives from its first report to its last: a killed one is counted as long as it is known to have lived.
    """
    spans: dict[tuple[str, int, str], list[Event]] = defaultdict(list)
    for event in events:
        spans[(event.run, event.attempt, event.pod)].append(event)
    edges: list[tuple[int, int]] = []
    for span in spans.values():
        edges += [(min(span).n, 1), (max(span).n + 1, -1)]
    alive = most = 0
    for _, change in sorted(edges):
        alive += change
        most = max(most, alive)
    return most


def first_steps(events: Iterable[Event]) -> dict[int, str]:
    """Map each attempt to the first step that it executed: where it resumed."""
    found: dict[int, str] = {}
    for event in sorted(events):
        if event.phase == "start":
            found.setdefault(event.attempt, event.step)
    return found
