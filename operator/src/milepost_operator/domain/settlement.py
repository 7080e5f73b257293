"""What follows for a run when an attempt ends: the one decision behind settle, a pod's death, a lease and a timeout."""

from dataclasses import asdict, dataclass, replace

from milepost.wire.pod import Evidence, Failure, SettleRequest
from milepost_operator.domain import memory
from milepost_operator.domain.breaker import Verdict
from milepost_operator.domain.retry import backoff_seconds
from milepost_operator.domain.runs import Ending, Retry
from milepost_operator.domain.states import OUT_OF_MEMORY, Reason, RunState

SIGKILL = 9
MAX_RETRY_AFTER_SECONDS = 86_400.0
"""Another server's wish is granted for a day at most."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """`infra_streak`: infrastructure losses in a row; `progressed`: this attempt committed a new record.

    `memory_class`: bytes that the run's pods have beyond what its version says, 0: none; `memory_limit`: bytes that the
    attempt had, 0: not known, which only an OOM needs.
    """

    cancel_requested: bool
    attempts_counted: int
    infra_streak: int
    progressed: bool
    retry: Retry
    infra_budget: int
    attempt: int = 1
    memory_class: int = 0
    memory_limit: int = 0


@dataclass(frozen=True, slots=True)
class Next:
    """The run after the attempt; `delay_seconds` until it is ready again, for `backoff` and `queued`.

    `memory_class`: of its next pod, as in RunFacts.
    """

    state: RunState
    reason: Reason
    message: str
    attempts_counted: int
    infra_streak: int
    delay_seconds: float = 0.0
    dead_lettered: bool = False
    memory_class: int = 0


def decide(facts: RunFacts, ending: Ending, jitter: float) -> Next:
    """The run after the attempt, and the memory of the next one."""
    following = replace(_decided(facts, ending, jitter), memory_class=facts.memory_class)
    if ending.reason not in OUT_OF_MEMORY or following.state is not RunState.BACKOFF:
        return following
    told = memory.told(facts.retry, facts.attempt, facts.memory_limit)
    raised = memory.next_class(facts.retry, facts.memory_limit)
    return replace(
        following,
        message=f"{following.message}; {told}" if told else following.message,
        memory_class=raised if raised > facts.memory_limit else facts.memory_class,
    )


def _decided(facts: RunFacts, ending: Ending, jitter: float) -> Next:
    """Rule order: our own intent to cancel, a pause before the start, success, the run's own deadlines, a wait, a
    decision to be made, a final failure, the two budgets.
    """
    counted = facts.attempts_counted + (1 if ending.counted else 0)
    if facts.cancel_requested:
        message = (
            "cancelled" if ending.reason is Reason.CANCELLED else f"cancelled; the attempt ended: {ending.message}"
        )
        return Next(RunState.CANCELLED, Reason.CANCELLED, message, counted, facts.infra_streak)
    if ending.reason is Reason.PAUSED:
        return Next(RunState.QUEUED, Reason.PAUSED, ending.message, facts.attempts_counted, facts.infra_streak)
    if ending.reason is Reason.SUCCEEDED:
        return Next(RunState.SUCCEEDED, Reason.SUCCEEDED, ending.message, facts.attempts_counted, 0)
    if ending.reason in {Reason.RUN_TIMEOUT, Reason.DEADLINE}:
        return Next(RunState.TIMED_OUT, ending.reason, ending.message, counted, facts.infra_streak)
    if ending.reason is Reason.SUSPENDED:
        return Next(RunState.SUSPENDED, Reason.SUSPENDED, ending.message, facts.attempts_counted, 0)
    if ending.hold:
        return Next(RunState.HELD, ending.reason, ending.message, counted, 0)
    if ending.reason is Reason.STEP_BACKOFF:
        delay = ending.retry_after_seconds or 0.0
        return Next(RunState.BACKOFF, Reason.STEP_BACKOFF, ending.message, facts.attempts_counted, 0, delay)
    if ending.final:
        return Next(RunState.FAILED, ending.reason, ending.message, counted, facts.infra_streak)
    if ending.infra:
        return _after_infra_loss(facts, ending, jitter)
    if counted >= facts.retry.max_attempts:
        return Next(RunState.FAILED, ending.reason, ending.message, counted, 0, dead_lettered=True)
    delay = backoff_seconds(facts.retry, counted, jitter)
    if ending.retry_after_seconds is not None:
        delay = max(delay, min(ending.retry_after_seconds, MAX_RETRY_AFTER_SECONDS))
    return Next(RunState.BACKOFF, ending.reason, ending.message, counted, 0, delay)


def _after_infra_loss(facts: RunFacts, ending: Ending, jitter: float) -> Next:
    streak = 1 if facts.progressed else facts.infra_streak + 1
    counted = facts.attempts_counted
    if streak > facts.infra_budget:
        message = f"{streak} infrastructure losses in a row without a new record; the last: {ending.message}"
        return Next(RunState.FAILED, Reason.POISONED, message, counted, streak, dead_lettered=True)
    if streak == 1:
        return Next(RunState.QUEUED, ending.reason, ending.message, counted, streak)
    delay = backoff_seconds(facts.retry, streak - 1, jitter)
    return Next(RunState.BACKOFF, ending.reason, ending.message, counted, streak, delay)


def verdict_of(ending: Ending, *, cancel_requested: bool) -> Verdict:
    """Failures and timeouts of the task count; losses of infrastructure, configurations and cancels do not."""
    if cancel_requested:
        return Verdict.NEUTRAL
    if ending.reason is Reason.SUCCEEDED:
        return Verdict.SUCCESS
    return Verdict.FAILURE if ending.counted or ending.reason is Reason.RUN_TIMEOUT else Verdict.NEUTRAL


def ending_of(request: SettleRequest) -> Ending:
    """Read the sidecar's report as an ending."""
    evidence = asdict(request.evidence)
    if request.outcome == "succeeded":
        return Ending(Reason.SUCCEEDED, "succeeded", counted=False, evidence=evidence)
    failure = request.failure or Failure("lost-result", "LostResult", "the attempt failed without saying why")
    error = {"type": failure.type, "message": failure.message, "traceback": failure.traceback}
    reason, infra = _reason_of(failure, request.evidence)
    changed = reason is Reason.CODE_CHANGED
    final = reason in {Reason.FATAL, Reason.CONFIG} or (failure.retryable is False and not infra)
    message = f"{failure.type}: {failure.message}" if failure.type else failure.message
    return Ending(
        reason,
        message,
        counted=not infra and not changed and reason is not Reason.CONFIG,
        infra=infra,
        final=final,
        error=error,
        evidence=evidence,
        retry_after_seconds=failure.retry_after_seconds,
        hold=changed and not final,
    )


def _reason_of(failure: Failure, evidence: Evidence) -> tuple[Reason, bool]:
    """The reason, and whether it is a loss of infrastructure: a SIGKILL that memory does not explain is one.

    A process that could still fail by itself, or exit, was not what the kernel killed for memory: one that it had
    started was.
    """
    if failure.kind == "oom" or (failure.kind == "crash" and evidence.oom_kills):
        return (Reason.OOM if evidence.exit_code is None else Reason.CHILD_OOM), False
    if failure.kind == "crash":
        return Reason.CRASHED, evidence.signal == SIGKILL
    if failure.kind == "changed":
        return Reason.CODE_CHANGED, False
    if failure.kind == "fatal" or (failure.kind == "user" and failure.retryable is False):
        return Reason.FATAL, False
    if failure.kind == "user" and evidence.oom_kills:
        return Reason.CHILD_OOM, False
    plain = {
        "user": Reason.USER_FAILURE,
        "config": Reason.CONFIG,
        "timeout": Reason.TIMEOUT,
        "cancelled": Reason.USER_FAILURE,
        "lost-result": Reason.LOST_RESULT,
    }
    return plain[failure.kind], False
