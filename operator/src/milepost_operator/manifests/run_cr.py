"""A run's row as its Run CR: at most 4 KB in all, whatever the row holds."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from milepost_operator.crds.common import API_VERSION
from milepost_operator.domain.runs import RunView
from milepost_operator.domain.states import HOLDS_SLOT, TERMINAL, RunState
from milepost_operator.manifests import names
from milepost_operator.manifests.raw import Manifest

MAX_BYTES: Final = 4096
_MAX_INPUT: Final = 512
_MAX_KEY: Final = 256
_MAX_MESSAGE: Final = 900
_MAX_PROGRESS: Final = 120
_MAX_TAGS: Final = 8
_AT_WORK: Final = frozenset({RunState.RUNNING, RunState.CANCELLING})


def phase(state: RunState) -> str:
    """`timedOut` is `TimedOut` in status.phase."""
    return state.value[:1].upper() + state.value[1:]


def body(view: RunView) -> Manifest:
    """The projection of a run made elsewhere, less its status. Input, key and tags only while they are small."""
    spec: Manifest = {"task": view.task, "runID": str(view.run_id)}
    if len(view.input) <= _MAX_INPUT:
        spec["input"] = json.loads(view.input)
    if view.idempotency_key and len(view.idempotency_key) <= _MAX_KEY:
        spec["idempotencyKey"] = view.idempotency_key
    if view.tags:
        spec["tags"] = list(dict.fromkeys(tag for tag in view.tags if 0 < len(tag) <= 64))[:_MAX_TAGS]  # noqa: PLR2004
    if spec.get("input", ...) is None:
        del spec["input"]  # the API server prunes nulls, so it would never match
    return {
        "apiVersion": API_VERSION,
        "kind": "Run",
        "metadata": {
            "name": view.name,
            "namespace": view.namespace,
            "labels": {
                names.MANAGED_BY: names.MANAGER,
                names.TASK_LABEL: names.label_value(view.task),
            },
        },
        "spec": spec,
    }


def status(view: RunView, generation: int | None = None) -> Manifest:
    """The whole status as a merge patch: None removes what no longer holds; an unknown `generation` is left out."""
    made: Manifest = {
        "runID": str(view.run_id),
        "phase": phase(view.state),
        "attempt": view.attempt or None,
        "attemptsCounted": view.attempts_counted,
        "maxAttempts": view.max_attempts,
        "lastCheckpoint": names.clipped(view.last_key, _MAX_KEY) if view.last_key else None,
        "lastSeq": view.last_seq or None,
        "resumedAfter": view.resumed_after or None,
        "progress": _progress(view),
        "reason": view.reason,
        "message": names.clipped(view.message, _MAX_MESSAGE) if view.message else None,
        "podName": view.pod_name,
        "version": view.version,
        "queue": view.queue,
        "startedAt": stamp(view.started_at),
        "finishedAt": stamp(view.finished_at),
        "conditions": conditions(view),
    }
    if generation is not None:
        made["observedGeneration"] = generation
    return _fitted(made, _size(body(view)))


def refused(reason: str, message: str, at: datetime, generation: int | None) -> Manifest:
    """Status of an intent that became no run."""
    condition: Manifest = {
        "type": "Accepted",
        "status": "False",
        "reason": reason,
        "message": names.clipped(message, 1000),
    }
    return {
        "reason": reason,
        "message": names.clipped(message, _MAX_MESSAGE),
        "observedGeneration": generation,
        "conditions": [condition | {"lastTransitionTime": stamp(at)}],
    }


def stamp(at: datetime | None) -> str | None:
    """RFC 3339 in UTC, to the second, as Kubernetes writes it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at else None


def conditions(view: RunView) -> Sequence[Manifest]:
    """Accepted, Admitted, Running, Succeeded; their times are the row's, so equal rows give equal conditions."""
    done = view.state in TERMINAL
    reason = view.reason or phase(view.state)
    holds_slot = view.state in HOLDS_SLOT
    running = view.state in _AT_WORK
    outcome = "Unknown" if not done else str(view.state is RunState.SUCCEEDED)
    ended = view.finished_at or view.created_at
    admitted = "True" if holds_slot else "False"
    return [
        _condition("Accepted", "True", "Accepted", view.created_at),
        _condition(
            "Admitted",
            admitted,
            "Admitted" if holds_slot else reason,
            view.admitted_at if holds_slot else (ended if done else view.ready_at),
            view,
        ),
        _condition(
            "Running",
            str(running),
            phase(view.state) if running else reason,
            view.started_at if running else (ended if done else view.ready_at),
            view,
        ),
        _condition("Succeeded", outcome, reason if done else phase(view.state), ended, view),
    ]


def _condition(kind: str, value: str, reason: str, at: datetime | None, view: RunView | None = None) -> Manifest:
    created = view.created_at if view else at
    return {
        "type": kind,
        "status": value,
        "reason": names.clipped(reason, 120),
        "message": "",
        "lastTransitionTime": stamp(at or created),
    }


def _progress(view: RunView) -> str | None:
    if view.progress is None and not view.progress_message:
        return None
    share = "" if view.progress is None else f"{min(max(view.progress, 0.0), 1.0):.0%}"
    return names.clipped(" ".join(filter(None, (share, view.progress_message))), _MAX_PROGRESS)


def _size(value: object) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def _fitted(made: Manifest, beside: int) -> Manifest:
    """Leave off the least needed, piece by piece, until the whole object has room in MAX_BYTES."""
    overhead = 700  # metadata that the API server adds: uid, times, managed fields of two writers without their paths
    for key, limit in (("message", 300), ("progress", 40), ("lastCheckpoint", 100), ("message", 0), ("progress", 0)):
        if _size(made) + beside + overhead <= MAX_BYTES:
            break
        value = made[key]
        if isinstance(value, str):
            made[key] = names.clipped(value, limit) if limit else None
    return made
