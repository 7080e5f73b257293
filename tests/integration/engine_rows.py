"""The engine under test by its public methods, and what its rows say: for the comparison with the model.

What has no public method yet (a child) is done by SQL here, in one place.
"""

import json
import math
from typing import Any
from uuid import UUID

from milepost_operator.adapters.postgres.duties import INVARIANTS
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import Created
from tests.integration.engine import trigger
from tests.integration.engine_model import Model

BY_TIME = {"slots_freed", "moments_are_kept", "pods_match_attempts"}
"""Invariants that hold only while the duties are done in time."""

SNAPSHOT = """
select json_build_object(
  'runs', (select json_agg(r) from (
      select r.run_id, r.state, r.attempt, r.attempts_counted as counted, r.infra_streak as streak, r.next_cause,
             r.dead_lettered as dead, r.reason, r.finished_at is not null as ended, h.token is not null as writable,
             h.last_seq, h.records,
             (select count(*) from run_events e where e.run_id = r.run_id and e.terminal) as terminal_events,
             case when r.state in ('delayed', 'backoff') then {ready} end as ready,
             case when r.state = 'queued' then {place} end as place,
             case when r.state in ('queued', 'delayed') and r.attempt = 0 then {expires} end as expires,
             {cancel} as cancel, {time} as time, case when h.token is not null then {lease} end as lease
      from runs r join run_heads h on h.run_id = r.run_id order by r.run_id) r),
  'attempts', (select json_agg(a) from (
      select run_id, attempt, cause, state, reason, counted, settled, {attempt} as deadline from attempts
      order by run_id, attempt) a),
  'waits', (select json_agg(w) from (
      select run_id, key, kind, armed, resolved_at is not null as resolved, timed_out,
             case kind when 'child' then resolution->>'state' else resolution::text end as value, {until} as until
      from waits order by run_id, ordinal) w),
  'signals', (select json_agg(s) from (
      select s.run_id, s.name, s.payload::text as payload, w.key as taken_by
      from signals s left join waits w on w.wait_id = s.taken_by order by s.run_id, s.seq) s),
  'records', (select json_agg(c) from (
      select run_id, seq, kind, key, value::text as value from records order by run_id, seq) c))
""".format(
    **{
        name: f"round(extract(epoch from {column} - clock_timestamp()) / 60)::int * 60"
        for name, column in {
            "ready": "r.ready_at",
            "place": "r.order_at",
            "expires": "(r.expires_at + paused_time(r.cluster, r.namespace, r.queue, r.created_at)"
            " - coalesce(r.thawed, '0'))",
            "cancel": "r.cancel_deadline_at",
            "time": "r.run_deadline_at",
            "lease": "h.lease_until",
            "attempt": "deadline_at",
            "until": "until",
        }.items()
    }
)


FUNCTION = """
create or replace function {} returns void language plpgsql set session_replication_role = replica
as $$ begin {}; end $$
"""


class Rows:
    """`store`: for looking; any replica may be given to `make`."""

    def __init__(self, store: PostgresStore) -> None:
        self.db = store._db

    async def prepare(self) -> None:
        """Find every time there is, so that `pass_time` can move it; commits need not wait for the disk here."""
        found = await self.db.fetch(
            "select c.table_name as t, array_agg(c.column_name::text) as columns from information_schema.columns c"
            " join information_schema.tables b using (table_schema, table_name)"
            " where table_schema = current_schema() and data_type = 'timestamp with time zone'"
            " and table_type = 'BASE TABLE' and table_name <> 'schema_migrations' group by 1"
        )
        updates = [
            f"update {r['t']} set " + ", ".join(f"{c} = {c} - make_interval(secs => seconds)" for c in r["columns"])
            for r in found
        ]
        tables = await self.db.fetch(
            "select table_name as t from information_schema.tables where table_schema = current_schema()"
            " and table_type = 'BASE TABLE' and table_name <> 'schema_migrations'"
        )
        # Without triggers: nothing happens, it only was earlier, or never. Not truncated: all would be planned anew.
        await self.db.fetch(FUNCTION.format("pass_time(seconds float8)", "; ".join(updates)))
        await self.db.fetch(FUNCTION.format("forget()", "; ".join(f"delete from {r['t']}" for r in tables)))
        # those with arguments of their own are left to `violations`
        names = [name for name in INVARIANTS if name not in BY_TIME and "$2" not in Q[name]]
        counts = [f"select '{name}' as name, ({Q[name]}) as found" for name in names]
        broken = "select json_object_agg(name, found) from (" + "\nunion all\n".join(counts) + ") i where found > 0"
        self.look = SNAPSHOT + f", ({broken})"

    async def make(
        self, store: PostgresStore, task: str, idempotency_key: str | None, text: str, **options: Any
    ) -> Created:
        """Trigger a run with `key`, `priority`, `delay`, `ttl`, `deadline` (seconds, 0: none)."""
        return await trigger(
            store,
            task,
            input=text,
            idempotency_key=idempotency_key,
            priority=options["priority"],
            concurrency_key=options["key"],
            delay_seconds=float(options["delay"]),
            ttl_seconds=float(options["ttl"]) or None,
            deadline_seconds=float(options["deadline"]) or None,
        )

    async def adopt(self, child: UUID, parent: UUID) -> None:
        await self.db.fetch("update runs set parent_run = $2 where run_id = $1", child, parent)

    async def forget(self) -> None:
        await self.db.fetch("select forget()")

    async def pass_time(self, seconds: int) -> None:
        """Everything that is written happened so much earlier."""
        await self.db.fetch("select pass_time($1)", float(seconds))

    async def served(self, now: bool) -> None:
        """The api took heartbeats until this moment, or until a while ago."""
        ago = "0 s" if now else "1 min"
        await self.db.fetch("update service_pulse set seen_at = clock_timestamp() - $1::text::interval", ago)

    async def snapshot(self) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int]]:
        """The tables, and the invariants that do not hold (less those by time)."""
        (row,) = await self.db.fetch(self.look, self.db.cluster)
        return {name: rows or [] for name, rows in json.loads(row[0]).items()}, json.loads(row[1] or "{}")


def expectation(model: Model) -> dict[str, list[dict[str, Any]]]:
    """What `snapshot` has to find."""
    expected: dict[str, list[dict[str, Any]]] = {n: [] for n in ("runs", "attempts", "waits", "signals", "records")}

    def left(moment: float) -> int | None:
        return None if moment == math.inf else int(moment - model.now)

    for run in sorted(model.runs.values(), key=lambda r: r.id):
        working = bool(run.attempts) and run.last.state != "ended"
        expected["runs"].append(
            {
                "run_id": run.id, "state": run.state, "attempt": len(run.attempts), "counted": run.counted,
                "streak": run.streak, "next_cause": run.next_cause, "dead": run.dead, "reason": run.reason,
                "ended": run.ended, "writable": working, "last_seq": len(run.records), "records": len(run.records),
                "terminal_events": int(run.ended),
                "ready": left(run.ready) if run.state in {"delayed", "backoff"} else None,
                "place": left(run.place[0]) if run.state == "queued" else None,
                "expires": left(run.expires) if run.state in {"queued", "delayed"} and not run.attempts else None,
                "cancel": left(run.cancel_deadline), "time": left(run.time),
                "lease": left(run.last.lease) if working else None,
            }
        )  # fmt: skip
        expected["attempts"] += [
            {
                "run_id": run.id, "attempt": a.number, "cause": a.cause, "state": a.state, "reason": a.reason,
                "counted": a.counted, "settled": a.settled, "deadline": left(a.deadline),
            }
            for a in run.attempts
        ]  # fmt: skip
        expected["waits"] += [
            {
                "run_id": run.id, "key": w.key, "kind": w.kind, "armed": w.armed, "resolved": w.resolved,
                "timed_out": w.timed_out, "value": w.value, "until": left(w.until),
            }
            for w in run.waits.values()
        ]  # fmt: skip
        expected["signals"] += [
            {"run_id": run.id, "name": s.name, "payload": s.payload, "taken_by": s.taken_by} for s in run.signals
        ]
        expected["records"] += [
            {"run_id": run.id, "seq": seq, "kind": kind, "key": key, "value": value}
            for seq, (kind, key, value) in enumerate(run.records, 1)
        ]
    return expected


def difference(found: dict[str, list[dict[str, Any]]], expected: dict[str, list[dict[str, Any]]]) -> str:
    """The first row that is not as the model says."""
    for table, rows in expected.items():
        for row, wanted in zip(found[table], rows, strict=False):
            if odd := {k: (row.get(k), v) for k, v in wanted.items() if row.get(k) != v}:
                return f"{table} of {wanted['run_id']}: (found, expected) {odd}"
        if len(rows) != len(found[table]):
            return f"{len(found[table])} rows of {table}, {len(rows)} expected"
    return "the tables differ"
