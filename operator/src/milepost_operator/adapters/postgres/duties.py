"""Port `Duties`: periodic work that claims its rows by lock, safe from any replica at any time."""

from functools import cached_property
from typing import Final
from uuid import UUID

from milepost_operator.adapters.postgres.database import Connection, Database, Row, seconds
from milepost_operator.adapters.postgres.endings import end_attempt, finish_waiting, lock_free_run
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.schemas import Schemas
from milepost_operator.domain.runs import Ending
from milepost_operator.domain.states import Reason, RunState

_ENDINGS: Final = {
    "cancel": Ending(Reason.CANCELLED, "cancelled: the grace is over", counted=False),
    "run": Ending(Reason.RUN_TIMEOUT, "the run took longer than timeouts.runSeconds", counted=False),
    "deadline": Ending(Reason.DEADLINE, "not finished within deadlineSeconds of its trigger", counted=False),
    "attempt": Ending(Reason.TIMEOUT, "the attempt took longer than timeouts.attemptSeconds"),
    "start": Ending(
        Reason.SIDECAR_LOST, "the sidecar did not start its attempt", counted=False, infra=True, started=False
    ),
    "lease": Ending(Reason.LEASE_EXPIRED, "no heartbeat for a whole lease", counted=False, infra=True),
}

_HELD_CHECKED: Final = 50
"""Inputs of held runs that are checked in one turn; others wait for the next."""

INVARIANTS: Final = (
    "acknowledged_runs_wait_or_end",
    "one_writer",
    "writes_fenced",
    "slots_within_limit",
    "slots_counted",
    "rates_within_limit",
    "waiting_is_told",
    "slots_freed",
    "one_run_per_key",
    "records_whole",
    "terminal_is_final",
    "pods_match_attempts",
    "epochs_monotonic",
    "paused_queues_hold",
    "breakers_hold",
    "dead_letters_conserved",
    "copies_begin_with_their_origin",
    "one_run_per_slot",
    "schedules_fire",
    "waiting_has_a_next_moment",
    "moments_are_kept",
    "ended_holds_nothing",
    "sleepers_hold_nothing",
    "waits_resolve_once",
    "nothing_that_came_is_slept_through",
    "pods_have_a_purpose",
    "attempts_have_their_pod",
    "offers_are_taken_up",
    "warm_pods_are_bounded",
    "objects_are_kept",
    "objects_are_referred_to",
    "objects_are_collected",
)


class PostgresDuties:
    """Promotion, reaping and the invariants."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @cached_property
    def _schemas(self) -> Schemas:
        return Schemas(self._db)

    async def pulse(self) -> None:
        await self._db.fetch(Q["pulse"], self._db.cluster)

    async def promote(self, limit: int) -> int:
        due = await self._db.fetch(Q["promote"], self._db.cluster, limit)
        await self._check_held(limit)
        held = await self._db.fetch(Q["release_held"], self._db.cluster, limit)
        if held:
            self._db.wake("project")
        return len(due) + len(held)

    async def _check_held(self, limit: int) -> None:
        """Inputs that came before their Task: what does not fit stays held, and says so."""
        rows = await self._db.fetch(Q["unchecked_held"], self._db.cluster, min(limit, _HELD_CHECKED))
        told: list[tuple[UUID, str | None, str | None]] = []
        for row in rows:
            digest, error = row["input_schema"], None
            if digest is not None:
                error = await self._schemas.check(row["task"], digest, row["input"], self._db.fetch)
            told.append(
                (row["run_id"], digest, None if error is None else f"{error}: delete the run, or change the Task")
            )
        if told:
            await self._db.fetch(Q["checked_held"], *[list(column) for column in zip(*told, strict=True)])
            self._db.wake("project")

    async def reap(self, limit: int) -> int:
        """A run that somebody else has locked is left to the next turn, and keeps no other waiting."""
        lease = seconds(self._db.settings.lease_seconds)
        ended = 0
        held = seconds(self._db.settings.held_seconds)
        failed: Exception | None = None
        for query, span, end in (
            ("overdue", lease, self._end_overdue),
            ("overdue_waiting", held, self._expire_waiting),
        ):
            for row in await self._db.fetch(Q[query], self._db.cluster, limit, span, None):
                try:
                    ended += await self._db.transaction(lambda c, row=row, end=end: end(c, row))  # type: ignore[misc]
                except Exception as error:  # noqa: BLE001 (told below: one that can't end must not keep the others)
                    failed = error
        ended += len(await self._db.fetch(Q["hold_stranded"], self._db.cluster, limit))
        if ended:
            self._db.wake("admit", "launch", "project")
        if failed:
            raise failed
        return ended

    async def violations(self) -> dict[str, int]:
        found = {}
        settings = self._db.settings
        more = {"warm_pods_are_bounded": (settings.warm_max, settings.warm_total)}
        for name in INVARIANTS:
            row = await self._db.fetchrow(Q[name], self._db.cluster, *more.get(name, ()))
            found[name] = int(row[0]) if row else 0
        return found

    async def _end_overdue(self, connection: Connection, found: Row) -> int:
        run = await lock_free_run(connection, found["run_id"])
        if run is None:
            return 0
        lease = seconds(self._db.settings.lease_seconds)
        still = await connection.fetchrow(Q["overdue"], self._db.cluster, 1, lease, found["run_id"])
        if still is None or still["attempt"] != found["attempt"]:
            return 0
        attempt = await connection.fetchrow(Q["attempt_for_ending"], run["run_id"], run["attempt"])
        await end_attempt(self._db, connection, run, attempt, _ENDINGS[still["why"]], settled=False)
        return 1

    async def _expire_waiting(self, connection: Connection, found: Row) -> int:
        run = await lock_free_run(connection, found["run_id"])
        if run is None:
            return 0
        held = seconds(self._db.settings.held_seconds)
        still = await connection.fetchrow(Q["overdue_waiting"], self._db.cluster, 1, held, found["run_id"])
        if still is None:
            return 0
        if still["why"] == "held":
            message = f"held for too long: {still['message']}"
            await finish_waiting(connection, run, RunState.EXPIRED, Reason.EXPIRED, message)
            return 1
        ending = _ENDINGS[still["why"]]
        await finish_waiting(connection, run, RunState.TIMED_OUT, ending.reason, ending.message)
        return 1
