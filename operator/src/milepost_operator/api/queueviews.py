"""What the public API says of queues and waits: JSON in camelCase, times in RFC 3339."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from milepost_operator.domain.queues import QueueView
from milepost_operator.domain.runs import RunView
from milepost_operator.domain.why import Why


class _Out(BaseModel):
    """Documents an answer; answers themselves are written straight from rows."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class OverrideOut(_Out):
    concurrency: int
    by: str | None
    since: datetime | None


class PauseOut(_Out):
    by: str | None
    since: datetime | None
    reason: str


class RateOut(_Out):
    limit: int
    period_seconds: int
    used: int | None
    free_at: datetime | None


class BreakerOut(_Out):
    state: str
    failures: int
    passed: int
    since: datetime | None
    until: datetime | None


class QueueOut(_Out):
    """`depth` stops at a bound: then `depthCapped`. `pause.by` null: the manifest."""

    namespace: str
    name: str
    depth: int
    depth_capped: bool
    running: int
    limit: int | None
    spec_limit: int | None
    override: OverrideOut | None
    oldest_waiting_since: datetime | None
    paused: bool
    pause: PauseOut | None
    rate: RateOut | None
    breaker: BreakerOut | None


class QueuesOut(_Out):
    items: list[QueueOut]


class ReasonOut(_Out):
    code: str
    sentence: str
    next_at: datetime | None


class WhyOut(_Out):
    """`why` null: the run has ended."""

    id: str
    name: str
    state: str
    why: ReasonOut | None


def queue(view: QueueView) -> dict[str, object]:
    override, pause, rate, breaker = view.override, view.pause, view.rate, view.breaker
    return {
        "namespace": view.namespace,
        "name": view.name,
        "depth": view.depth,
        "depthCapped": view.capped,
        "running": view.running,
        "limit": view.limit,
        "specLimit": view.spec_limit,
        "override": override and {"concurrency": override.concurrency, "by": override.by, "since": override.since},
        "oldestWaitingSince": view.oldest_at,
        "paused": pause is not None,
        "pause": pause and {"by": pause.by, "since": pause.since, "reason": pause.reason},
        "rate": rate
        and {
            "limit": rate.limit,
            "periodSeconds": rate.period_seconds,
            "used": view.rate_used,
            "freeAt": rate.free_at,
        },
        "breaker": breaker
        and {
            "state": breaker.phase,
            "failures": breaker.failures,
            "passed": breaker.passed,
            "since": breaker.since,
            "until": breaker.until,
        },
    }


def why(run: RunView, found: Why | None) -> dict[str, object]:
    return {"id": run.run_id, "name": run.name, "state": run.state, "why": reason(found)}


def reason(found: Why | None) -> dict[str, object] | None:
    return None if found is None else {"code": found.code, "sentence": found.sentence, "nextAt": found.next_at}
