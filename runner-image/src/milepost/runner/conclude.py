"""Tells how an attempt's process ended, where it could not say so itself, and whether the pod may take another."""

import signal
from dataclasses import dataclass, replace
from typing import Final

from milepost.errors import SettledError
from milepost.runner import cgroup, failure
from milepost.runner.log import say
from milepost.runner.watch import Ending
from milepost.sdk.client import BlockingSidecar
from milepost.sdk.local import write_headers
from milepost.wire.evidence import FailureKind
from milepost.wire.local import EXIT_FAILED, EXIT_FENCED, EXIT_SIDECAR

EXIT_TERMINATED: Final = 143


@dataclass(frozen=True, slots=True)
class Conclusion:
    """`code`: the container's exit code if it ends now. `settled`: the attempt is. `retire`: why none may follow."""

    code: int
    settled: bool = False
    retire: str | None = None


def conclude(sidecar: BlockingSidecar, ending: Ending, before: cgroup.Counters) -> Conclusion:
    """Settle the attempt if its process did not. `before`: what the kernel had noted as it began."""
    used = cgroup.since(before, ending.resident_bytes)
    kills = used.oom_kills
    if ending.cause == "settled":
        return Conclusion(0 if ending.exit_code == 0 else EXIT_FAILED, settled=True, retire=_retire(ending, kills))
    if ending.cause == "terminated":
        return Conclusion(EXIT_TERMINATED)
    if ending.cause == "stopped" or ending.exit_code == EXIT_FENCED:
        return Conclusion(EXIT_FENCED)
    if ending.cause == "sidecar-lost":
        return Conclusion(EXIT_SIDECAR)
    evidence = replace(used, exit_code=ending.exit_code, signal=ending.signal)
    kind, message = _explain(ending, kills)
    say(message)
    retire = _retire(ending, kills) if kind == "cancelled" else "oom" if kind == "oom" else "crash"
    try:
        headers = [*write_headers(), *cgroup.usage(used)]
        sidecar.call("PUT", "/v1/failure", headers, failure.body(kind, kind, message, evidence=evidence))
    except SettledError as error:
        # it died between the commit of its result and its own end
        say(str(error))
        return Conclusion(0 if error.state == "succeeded" else EXIT_FAILED, settled=True, retire=retire)
    return Conclusion(EXIT_FAILED, settled=True, retire=retire)


def _retire(ending: Ending, oom_kills: int) -> str | None:
    """Give the reason against another attempt in this pod, though this one ended in order."""
    if oom_kills > 0:
        return "oom"
    return "crash" if ending.cause == "settled" and ending.signal is not None else None


def _explain(ending: Ending, oom_kills: int) -> tuple[FailureKind, str]:
    how = f"exit code {ending.exit_code}"
    if ending.signal is not None:
        how = f"signal {signal.Signals(ending.signal).name}"
    if ending.cause == "grace-over":
        return "cancelled", "the task did not end within its grace after the run was cancelled: killed"
    if oom_kills > 0:
        return "oom", f"the container hit its memory limit and the kernel killed a process ({how})"
    if ending.exit_code == 0:
        return "lost-result", "the task's process ended with exit code 0 without a result"
    return "crash", f"the task's process died without a result: {how}"
