"""What a disturbed run must be like, told from its records and from what its processes noted."""

import json
from collections import Counter

from tests.crashpoints.rig import Case

FREE = "flaky"
"""Tasks of such a name have an open way until it is recorded: an answer that was lost may be another one next time."""


def faults(case: Case, model: Case) -> list[str]:
    """Everything that is wrong with it; `model`: the same task, undisturbed."""
    found = [*_executions(case), *_ending(case)]
    if FREE in case.shape:
        found += _consistent(case)
    elif case.shape == "chance":
        found += _as_recorded(case)
    elif case.result != model.result:
        found.append(f"result {case.result}, undisturbed {model.result}")
    elif (case.steps, case.checkpoints) != (model.steps, model.checkpoints):
        found.append(f"records {case.steps} {case.checkpoints}, undisturbed {model.steps} {model.checkpoints}")
    return [f"{case.name}: {fault}" for fault in found]


def _executions(case: Case) -> list[str]:
    found: list[str] = []
    executed: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    under_way: set[str] = set()
    acknowledged: set[str] = set()
    for line in case.notes:
        what, _, key = line.partition(" ")
        if what == "start":
            if key in acknowledged:
                found.append(f"{key} ran again after its acknowledgement")
            executed[key] += 1
            under_way.add(key)
        elif what == "ack":
            acknowledged.add(key)
            under_way.discard(key)
        elif key != "sidecar":  # the task lives on
            lost.update(under_way)
            under_way.clear()
    for key, count in executed.items():
        if count > 1 + lost[key]:
            found.append(f"{key} ran {count} times, lost {lost[key]} times: {case.notes}")
    return found


def _ending(case: Case) -> list[str]:
    found = []
    if case.state != "succeeded":
        found.append(f"state {case.state}")
    kills = sum(line.startswith("kill") and line != "kill sidecar" for line in case.notes)
    # one that is killed as it settles may have settled
    if not kills <= case.attempts <= kills + 1:
        found.append(f"{case.attempts} attempts after {kills} kills")
    return found


def _consistent(case: Case) -> list[str]:
    """The way that it took is the one that its records tell."""
    if case.result is None:
        return ["no result"]
    backup = any("backup" in key for key in json.loads(case.result))
    flaky = next((failed for key, (_, failed) in case.steps.items() if key.endswith(("flaky", "outer"))), None)
    found = _as_recorded(case)
    if flaky is not backup or any("backup" in key for key in case.steps) is not backup:
        found.append(f"{case.result} of {case.steps}; noted {case.notes}")
    return found


def _as_recorded(case: Case) -> list[str]:
    if case.result is None:
        return ["no result"]
    values = {key: json.loads(value) for key, (value, failed) in case.steps.items() if not failed}
    return [
        f"{key} is {value!r} in the result, {values.get(key)!r} in the records"
        for key, value in json.loads(case.result).items()
        if value != values.get(key)
    ]
