"""A Task's spec in two halves: what shapes its pods (a version), and what is copied onto each run (its policy)."""

from dataclasses import dataclass
from typing import Final

from milepost_operator.crds.queue import QueueSpec
from milepost_operator.crds.task import TaskSpec
from milepost_operator.domain import breaker
from milepost_operator.domain.runs import DEFAULT_QUEUE, Retry, Timeouts
from milepost_operator.manifests import quantity
from milepost_operator.manifests.raw import Manifest

OOM_FACTOR: Final = 2.0
_SHAPING: Final = {"image", "source", "entrypoint", "command", "args", "resources", "env", "env_from", "pod"}


@dataclass(frozen=True, slots=True)
class Policy:
    """What is copied onto a run when it is made."""

    queue: str
    retry: Retry
    timeouts: Timeouts


def shape_of(spec: TaskSpec) -> Manifest:
    """The pod-shaping part as JSON: only what is set, with quantities as strings."""
    dumped = spec.model_dump(mode="json", by_alias=True, exclude_none=True, include=_SHAPING)
    if spec.resources:
        dumped["resources"] = {
            kind: {key: str(value) for key, value in quantities.items()}
            for kind, quantities in dumped["resources"].items()
        }
    return dumped


def policy_of(spec: TaskSpec) -> Policy:
    """The rest, with defaults; a maximum that is not set never undercuts a minimum that is."""
    base, limits = Retry(), Timeouts()
    retry = Retry()
    if spec.retry:
        given = spec.retry
        low = base.min_seconds if given.min_seconds is None else given.min_seconds
        high = base.max_seconds if given.max_seconds is None else given.max_seconds
        if given.min_seconds is None:
            low = min(low, high)
        if given.max_seconds is None:
            high = max(low, high)
        retry = Retry(
            max_attempts=given.max_attempts or base.max_attempts,
            factor=given.factor or base.factor,
            min_seconds=low,
            max_seconds=high,
            randomize=base.randomize if given.randomize is None else given.randomize,
            oom_factor=(given.on_oom.factor or OOM_FACTOR) if given.on_oom else None,
            oom_max_bytes=int(quantity.value(str(given.on_oom.max_memory))) if given.on_oom else None,
        )
    if spec.timeouts:
        limits = Timeouts(
            attempt_seconds=spec.timeouts.attempt_seconds or limits.attempt_seconds,
            run_seconds=spec.timeouts.run_seconds or limits.run_seconds,
        )
    return Policy(spec.queue or DEFAULT_QUEUE, retry, limits)


def breaker_policy(spec: QueueSpec) -> breaker.Policy | None:
    """A Queue's circuit breaker, with defaults."""
    given = spec.breaker
    if given is None:
        return None
    base = breaker.Policy(given.failures)
    return breaker.Policy(
        given.failures,
        window_seconds=given.window_seconds or base.window_seconds,
        open_seconds=given.open_seconds or base.open_seconds,
        probes=given.probes or base.probes,
    )


def retention_of(spec: TaskSpec) -> dict[str, int]:
    """What it says of retention, by the names of crds.task.Retention."""
    return spec.retention.model_dump(exclude_none=True) if spec.retention else {}


def record_limits_of(spec: TaskSpec) -> dict[str, int]:
    """What it says of a run's records, by the names of crds.task.RecordLimits."""
    return spec.records.model_dump(exclude_none=True) if spec.records else {}


def warm_of(spec: TaskSpec) -> dict[str, int | str]:
    """What it says of pods that stay, by the names of crds.task.Warm."""
    return spec.warm.model_dump(exclude_none=True) if spec.warm else {}


def network_of(spec: TaskSpec) -> Manifest | None:
    """What it says of the network, as JSON; None: nothing."""
    if spec.network is None:
        return None
    return spec.network.model_dump(mode="json", by_alias=True, exclude_none=True)
