"""Queues, backlogs and ends of runs by SQL, so that a test of admission can have many of them at once."""

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import QueueIntake
from tests.integration.engine import NS

ENQUEUE = """
with made as (
    insert into runs (run_id, cluster, namespace, name, task, queue, state, input, input_hash, origin, retry, timeouts,
                      concurrency_key, priority, rate_cost, ready_at, order_at, next_cause)
    select gen_random_uuid(), 'default', $1, 'r' || gen_random_uuid(), $2, $3, 'queued', '{}', '', 'api', '{}', '{}',
           $4, $5, $6, clock_timestamp(), order_at(clock_timestamp(), $5) + n * interval '1 microsecond', $8
    from generate_series(1, $7) n
    returning run_id
)
insert into run_heads (run_id) select run_id from made
"""

FINISH = """
with ended as (
    update runs set state = 'succeeded', finished_at = clock_timestamp(), event_count = event_count + 1
    where run_id in (select run_id from runs where state in ('admitted', 'running')
                     and ($1::text is null or concurrency_key like $1) and ($2::text is null or task = $2)
                     limit $3 for no key update skip locked)
    returning run_id, attempt, event_count
), heads as (
    update run_heads h set token = null from ended e where h.run_id = e.run_id
), attempts as (
    update attempts a set state = 'ended', reason = 'Succeeded', ended_at = clock_timestamp()
    from ended e where a.run_id = e.run_id and a.attempt = e.attempt
), pods as (
    update pods p set state = 'closing', closing_at = clock_timestamp()
    from ended e where p.run_id = e.run_id and p.attempt = e.attempt
), told as (
    insert into run_events (run_id, seq, reason, message, terminal)
    select run_id, event_count, 'RunSucceeded', '', true from ended
)
select count(*) from ended
"""


async def queue(store: PostgresStore, name: str = "q", generation: int = 1, **limits: object) -> None:
    """Apply a Queue; without limits there are none."""
    fields = {"concurrency": None} | limits
    await store.apply_queue(QueueIntake(NS, name, f"uid-{name}", generation, **fields))  # type: ignore[arg-type]


async def enqueue(
    store: PostgresStore,
    count: int,
    *,
    queue: str = "q",
    task: str = "index",
    key: str = "",
    priority: int = 0,
    cost: int = 1,
    cause: str = "first",
) -> None:
    await store._db.fetch(ENQUEUE, NS, task, queue, key, priority, cost, count, cause)


async def finish(
    store: PostgresStore, count: int = 1_000_000, *, key: str | None = None, task: str | None = None
) -> int:
    """End up to `count` runs that hold a slot; `key` is a pattern of LIKE."""
    rows = await store._db.fetch(FINISH, key, task, count)
    return int(rows[0][0])


async def claim(store: PostgresStore, count: int = 200, queue: str = "q") -> int:
    return await store.admit_queue(NS, queue, count)


async def taken(store: PostgresStore, where: str = "true") -> int:
    """Runs that hold a slot."""
    query = f"select count(*) from runs where state in ('admitted', 'running', 'cancelling') and {where}"
    return int((await store._db.fetch(query))[0][0])


async def keys_in_order(store: PostgresStore) -> list[str]:
    """The concurrency key of each admission, in the order of the claims (their tokens)."""
    rows = await store._db.fetch(
        "select r.concurrency_key from attempts a join runs r on r.run_id = a.run_id order by a.token",
    )
    return [row[0] for row in rows]
