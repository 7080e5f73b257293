"""Circuit breakers in rows: ends of attempts are judged under the queue's lock, and what follows outlives restarts."""

from dataclasses import dataclass

import orjson

from milepost_operator.adapters.postgres.control import Key
from milepost_operator.adapters.postgres.database import Connection, Database, Row
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.domain.breaker import Breaker, Outcome, Phase, Policy, Verdict, decide, room
from milepost_operator.obs.logging import get_logger

_log = get_logger(__name__)


def policy_of(text: str | None) -> Policy | None:
    """The policy as the queue's row keeps it."""
    return Policy(**orjson.loads(text)) if text else None


def breaker_of(row: Row) -> Breaker:
    return Breaker(
        Phase(row["breaker_phase"]),
        row["breaker_since"],
        row["breaker_until"],
        tuple(row["breaker_failures"]),
        row["breaker_passed"],
    )


@dataclass(frozen=True, slots=True)
class Judged:
    """`room`: how many may be admitted, None: any number."""

    changed: bool
    room: int | None


async def judge(connection: Connection, key: Key) -> Judged:
    """Lock a queue and let its breaker follow what has ended, and the clock."""
    row = await connection.fetchrow(Q["lock_queue_to_judge"], *key)
    if row is None:
        return Judged(changed=False, room=0)
    outcomes = await connection.fetch(Q["take_outcomes"], *key)
    policy = policy_of(row["breaker"])
    before = breaker_of(row)
    if policy is None:
        after, space = Breaker(), None
    else:
        ends = [Outcome(Verdict(o["verdict"]), o["admitted_at"], o["ended_at"]) for o in outcomes]
        after = decide(policy, before, ends, row["now"])
        probing = await connection.fetchval(Q["count_probes"], *key, after.since) if _half_open(after) else 0
        space = room(policy, after, probing)
    if (after, space) != (before, row["probe_room"]):
        failures = list(after.failures)
        await connection.execute(
            Q["set_breaker"], *key, after.phase, after.since, after.until, failures, after.passed, space
        )
    if after.phase is not before.phase:
        _log.info("breaker", namespace=key[1], queue=key[2], phase=after.phase, until=str(after.until or ""))
    return Judged(after.phase is not before.phase, space)


def _half_open(breaker: Breaker) -> bool:
    return breaker.phase is Phase.HALF_OPEN


class PostgresBreakers:
    """The duty that judges."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def judge_breakers(self) -> int:
        changed = 0
        for row in await self._db.fetch(Q["queues_to_judge"], self._db.cluster):
            key = (self._db.cluster, row["namespace"], row["name"])
            judged = await self._db.transaction(lambda c, key=key: judge(c, key))  # type: ignore[misc]
            changed += judged.changed
        return changed
