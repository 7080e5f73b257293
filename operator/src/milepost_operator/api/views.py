"""What the public API says of runs: JSON in camelCase, times in RFC 3339, user values as they were written."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, RootModel
from pydantic.alias_generators import to_camel

from milepost_operator.api.queueviews import ReasonOut
from milepost_operator.domain.causes import explained
from milepost_operator.domain.lifecycle import Copied, Outcome, Redriven
from milepost_operator.domain.runs import AttemptView, Created, RecordView, RunView
from milepost_operator.manifests.names import job_name


class _Out(BaseModel):
    """Documents an answer; answers themselves are written straight from rows."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")


class CreatedOut(_Out):
    id: str
    name: str
    namespace: str
    task: str
    state: str
    duplicate: bool
    ready_at: datetime | None


class BatchItemOut(_Out):
    """`status`: what the call alone would have got. `error`: a problem (RFC 9457)."""

    status: int
    run: CreatedOut | None = None
    error: dict[str, object] | None = None
    retry_after_seconds: int | None = None


class BatchOut(_Out):
    created: int
    duplicates: int
    refused: int
    items: list[BatchItemOut]


class RunSummaryOut(_Out):
    id: str
    name: str
    namespace: str
    task: str
    queue: str
    state: str
    reason: str | None
    message: str | None
    attempt: int
    attempts_counted: int
    max_attempts: int
    version: int | None
    origin: str
    origin_run: UUID | None
    origin_seq: int | None
    tags: list[str]
    idempotency_key: str | None
    pod_name: str | None
    last_seq: int
    last_checkpoint: str | None
    resumed_after: int | None
    progress: float | None
    progress_message: str | None
    dead_lettered: bool
    redriven_by: UUID | None
    created_at: datetime
    ready_at: datetime | None
    admitted_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


class RunOut(RunSummaryOut):
    """`resultBytes`: of a result that is too large to be shown here; `GET /v1/runs/{run}/result` gives it."""

    input: object
    result: object
    result_bytes: int | None
    error: dict[str, object] | None
    why: ReasonOut | None


class ResultOut(RootModel[object]):
    """Any JSON."""


class RunsOut(_Out):
    items: list[RunSummaryOut]
    next_cursor: str | None


class ChunkOut(_Out):
    position: int
    attempt: int
    value: object
    created_at: datetime


class StreamOut(_Out):
    items: list[ChunkOut]
    next: int
    ended: bool


class AttemptOut(_Out):
    attempt: int
    cause: str
    state: str
    reason: str | None
    message: str | None
    counted: bool
    job: str
    resumed_after: int
    started_at: datetime | None
    ended_at: datetime | None
    explanation: str | None
    advice: str | None
    evidence: dict[str, object]


class AttemptsOut(_Out):
    items: list[AttemptOut]


class CopiedOut(_Out):
    """`originSeq`: the seq up to which the new run begins with the records of `originRun`."""

    id: UUID
    name: str
    namespace: str
    task: str
    state: str
    origin_run: UUID
    origin_seq: int
    records: int


class CancelledOut(_Out):
    """`matched`: runs of this call; `cancelled`: those that were asked to end now."""

    matched: int
    cancelled: int
    dry_run: bool
    next_cursor: str | None


class RecordOut(_Out):
    seq: int
    kind: str
    key: str
    bytes: int
    created_at: datetime


class DeadLetterOut(_Out):
    """`records`: the newest, without their values."""

    run: RunOut
    attempts: list[AttemptOut]
    records: list[RecordOut]


class DeadLetterMovedOut(_Out):
    """`run`: as it was named. `newRun`, `newName`: what it was redriven as, now or earlier."""

    run: str
    outcome: Outcome
    new_run: UUID | None
    new_name: str | None


class DeadLettersMovedOut(_Out):
    items: list[DeadLetterMovedOut]
    next_cursor: str | None


def created(run: Created, namespace: str, task: str) -> Mapping[str, object]:
    return {
        "id": run.run_id,
        "name": run.name,
        "namespace": namespace,
        "task": task,
        "state": run.state,
        "duplicate": run.duplicate,
        "readyAt": run.ready_at,
    }


def summary(run: RunView) -> dict[str, object]:
    """A run in a list: without input, result and error, which may be large."""
    return {
        "id": run.run_id,
        "name": run.name,
        "namespace": run.namespace,
        "task": run.task,
        "queue": run.queue,
        "state": run.state,
        "reason": run.reason,
        "message": run.message,
        "attempt": run.attempt,
        "attemptsCounted": run.attempts_counted,
        "maxAttempts": run.max_attempts,
        "version": run.version,
        "origin": run.origin,
        "originRun": run.origin_run,
        "originSeq": run.origin_seq,
        "tags": list(run.tags),
        "idempotencyKey": run.idempotency_key,
        "podName": run.pod_name,
        "lastSeq": run.last_seq,
        "lastCheckpoint": run.last_key,
        "resumedAfter": run.resumed_after,
        "progress": run.progress,
        "progressMessage": run.progress_message,
        "deadLettered": run.dead_lettered,
        "redrivenBy": run.redriven_by,
        "createdAt": run.created_at,
        "readyAt": run.ready_at,
        "admittedAt": run.admitted_at,
        "startedAt": run.started_at,
        "finishedAt": run.finished_at,
    }


def full(run: RunView) -> dict[str, object]:
    """One run with everything; `input` and `result` byte for byte as they are kept."""
    return {
        **summary(run),
        "input": orjson.Fragment(run.input),
        "result": None if run.result is None else orjson.Fragment(run.result),
        "resultBytes": run.result_bytes,
        "error": run.error,
    }


def attempt(view: AttemptView) -> dict[str, object]:
    """`explanation`: what its reason means; `advice`: what can be done about it."""
    cause = explained(view.reason)
    return {
        "attempt": view.attempt,
        "cause": view.cause,
        "state": view.state,
        "reason": view.reason,
        "message": view.message,
        "counted": view.counted,
        "job": job_name(view.pod_id),
        "resumedAfter": view.resumed_after,
        "startedAt": view.started_at,
        "endedAt": view.ended_at,
        "explanation": cause and cause.sentence,
        "advice": (cause and cause.advice) or None,
        "evidence": view.evidence,
    }


def copied(run: Copied) -> Mapping[str, object]:
    return {
        "id": run.run_id,
        "name": run.name,
        "namespace": run.namespace,
        "task": run.task,
        "state": run.state,
        "originRun": run.origin_run,
        "originSeq": run.origin_seq,
        "records": run.records,
    }


def moved(one: Redriven) -> Mapping[str, object]:
    return {"run": one.run, "outcome": one.outcome, "newRun": one.made, "newName": one.name}


def dead_letter(run: RunView, attempts: Sequence[AttemptView], records: Sequence[RecordView]) -> Mapping[str, object]:
    shown = [{"seq": r.seq, "kind": r.kind, "key": r.key, "bytes": r.bytes, "createdAt": r.created_at} for r in records]
    return {"run": full(run) | {"why": None}, "attempts": [attempt(one) for one in attempts], "records": shown}
