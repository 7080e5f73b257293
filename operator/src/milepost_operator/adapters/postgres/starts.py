"""Attempts begin: their pods are checked, their leases run, and the sidecars are told what to do.

Lock order: runs, then heads, each in the order of their ids.
"""

from collections.abc import Mapping, Sequence
from typing import cast
from uuid import UUID

import orjson

from milepost.wire.pod import NO_ATTEMPT_YET, Cause, OnChange, ResolvedWait, Start
from milepost_operator.adapters.postgres.database import Connection, Database, Row, seconds
from milepost_operator.adapters.postgres.endings import lock_runs, retry_of
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.suspension import resolved_waits
from milepost_operator.domain.errors import ConflictError, ForbiddenError, GoneError, MilepostError
from milepost_operator.domain.runs import PodSession, Timeouts


async def begin_attempts(db: Database, sessions: Sequence[PodSession]) -> dict[str, tuple[Start, str | None]]:
    """Begin the first attempts of runs in one statement; by pod, and why it needed a new pod.

    Those of other pods are for `start_attempts`: they have begun before, resume, can't begin, or are busy.
    """
    settings, default = db.settings, Timeouts()
    rows = await db.fetch(
        Q["begin_attempts"],
        [session.pod_id for session in sessions],
        [session.pod_uid for session in sessions],
        db.cluster,
        seconds(settings.lease_seconds),
        settings.max_run_records,
        settings.max_run_records_bytes,
        float(default.attempt_seconds),
        float(default.run_seconds),
    )
    return {
        row["pod_id"]: (_start(db, row, Timeouts(**orjson.loads(row["timeouts"])), []), row["cold_reason"])
        for row in rows
    }


async def start_attempts(
    db: Database, connection: Connection, sessions: Sequence[PodSession], *, wait: bool = True
) -> tuple[list[Start | MilepostError], list[str | None]]:
    """Start the attempts that these pods are for, or give them again.

    Returns per pod its start or why not; and of each attempt that begins now why it needed a new pod, None where it
    did not.

    Not `wait`: a run that somebody has locked is BusyError.
    """
    rows = await connection.fetch(Q["pods_to_start"], db.cluster, [session.pod_id for session in sessions])
    known = {row["pod_id"]: row for row in rows}
    pods = [_own_pod(session, known.get(session.pod_id)) for session in sessions]
    run_ids = [pod["run_id"] for pod in pods if not isinstance(pod, MilepostError)]
    runs, busy = await lock_runs(connection, run_ids, wait=wait)
    facts = {row["run_id"]: row for row in await connection.fetch(Q["start_facts"], list(runs))}
    answers = [
        pod if isinstance(pod, MilepostError) else busy.get(pod["run_id"]) or _its_attempt(pod, runs, facts)
        for pod in pods
    ]
    starting = [answer for answer in answers if not isinstance(answer, MilepostError)]
    if not starting:
        return [answer for answer in answers if isinstance(answer, MilepostError)], []
    timeouts = {row["run_id"]: Timeouts(**orjson.loads(row["timeouts"])) for row in starting}
    limits = [_record_limits(db, row) for row in starting]
    begun = await connection.fetch(
        Q["start_attempts"],
        [row["run_id"] for row in starting],
        [row["attempt"] for row in starting],
        [float(timeouts[row["run_id"]].attempt_seconds) for row in starting],
        [float(timeouts[row["run_id"]].run_seconds) for row in starting],
        seconds(db.settings.lease_seconds),
        [most for most, _ in limits],
        [most_bytes for _, most_bytes in limits],
        [row["pod_id"] for row in starting],
    )
    resumed = [row["run_id"] for row in starting if row["attempt"] > 1]
    waits = await resolved_waits(connection, resumed) if resumed else {}
    told = [
        answer if isinstance(answer, MilepostError)
        else _start(db, answer, timeouts[answer["run_id"]], waits.get(answer["run_id"], []))
        for answer in answers
    ]  # fmt: skip
    return told, [row["cold_reason"] for row in begun]


def _own_pod(session: PodSession, pod: Row | None) -> Row | MilepostError:
    """The pod's row if the session is its own and there is work for it; else why not."""
    if pod is None or pod["state"] in {"closing", "closed"}:
        return GoneError(f"pod {session.pod_id} has no more work: it should end")
    if pod["pod_uid"] != session.pod_uid:
        return ForbiddenError(f"pod {session.pod_id} is bound to another pod uid")
    if pod["run_id"] is None and pod["fresh"]:
        return ConflictError(
            NO_ATTEMPT_YET, f"pod {session.pod_id} has had no attempt yet: it is to be made ready for one"
        )
    if pod["run_id"] is None:
        return GoneError(f"pod {session.pod_id} has no attempt now: ask for the next one")
    return pod


def _its_attempt(pod: Row, runs: Mapping[UUID, Row], facts: Mapping[UUID, Row]) -> Row | MilepostError:
    """What its attempt needs to know, if that is still the run's."""
    run = runs.get(pod["run_id"])
    if run is None or run["attempt"] != pod["attempt"]:
        return GoneError(f"the attempt of pod {pod['pod_id']} is over")
    found = facts[pod["run_id"]]
    if found["pod_id"] != pod["pod_id"]:  # since it was offered here
        return GoneError(f"attempt {pod['attempt']} of run {run['name']} went to another pod")
    if found["attempt_state"] == "ended":
        return GoneError(f"attempt {pod['attempt']} of run {run['name']} has ended")
    return found


def _record_limits(db: Database, facts: Row) -> tuple[int, int]:
    """Records that the run may have, and their bytes: as its Task says now."""
    told = orjson.loads(facts["record_limits"] or "{}")
    settings = db.settings
    return told.get("max_count", settings.max_run_records), told.get("max_bytes", settings.max_run_records_bytes)


def _start(db: Database, facts: Row, timeouts: Timeouts, waits: list[ResolvedWait]) -> Start:
    settings = db.settings
    shape = orjson.loads(facts["shape"])
    command = [*shape.get("command", ()), *shape.get("args", ())]
    return Start(
        run_id=str(facts["run_id"]),
        run_name=facts["name"],
        namespace=facts["namespace"],
        task=facts["task"],
        version=facts["version"],
        attempt=facts["attempt"],
        token=facts["token"],
        cause=cast("Cause", facts["cause"]),
        input=facts["input"],
        tags=list(facts["tags"]),
        entrypoint=shape.get("entrypoint"),
        command=command or None,
        source=(shape.get("source") or {}).get("inline"),
        max_attempts=retry_of(facts["retry"]).max_attempts,
        attempt_seconds=timeouts.attempt_seconds,
        lease_seconds=settings.lease_seconds,
        beat_seconds=settings.beat_seconds,
        max_record_bytes=settings.max_record_bytes,
        max_result_bytes=settings.max_result_bytes,
        grace_seconds=settings.grace_seconds,
        on_partition="continue",
        records=facts["records"],
        last_seq=facts["last_seq"],
        last_key=facts["last_key"],
        created_at=facts["created_at"].isoformat(),
        waits=waits,
        on_change="accept" if facts["accepted"] else cast("OnChange", facts["on_change"]),
        origin=facts["origin"],
        key_run=str(facts["key_run"] or facts["run_id"]),
        attempts_counted=facts["attempts_counted"],
        deltas=True,
        accepted=facts["accepted"] and facts["on_change"] == "hold",
        max_object_bytes=settings.most_object_bytes,
    )
