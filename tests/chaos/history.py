"""The two histories that the checker compares: what was promised outside, and in which order rows changed inside."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg

# A sequence orders the entries: it never goes back, not with the clock and not through a crash. An admission holds its
# queue's lock, so entries of one queue's limits and admissions are in the order of their commits; an end is entered
# before its commit, so a slot counts as free here no later than it is.
AUDIT = """
create schema chaos;
create table chaos.history (
    seq bigserial primary key, what text not null, run_id uuid, attempt int, queue text, detail jsonb);

create function chaos.on_attempt() returns trigger language plpgsql as $$
declare r record;
begin
    select * into r from milepost.runs where run_id = new.run_id;
    if tg_op = 'INSERT' then
        insert into chaos.history (what, run_id, attempt, queue, detail)
        values ('in', new.run_id, new.attempt, r.queue,
                jsonb_build_object('key', r.concurrency_key, 'task', r.task, 'cause', new.cause,
                                   'at', extract(epoch from clock_timestamp())));
    elsif old.state <> 'ended' and new.state = 'ended' then
        insert into chaos.history (what, run_id, attempt, queue, detail)
        values ('out', new.run_id, new.attempt, r.queue, jsonb_build_object('reason', new.reason));
    elsif old.state = 'ended' then
        insert into chaos.history (what, run_id, attempt, queue)
        values ('changed-after-end', new.run_id, new.attempt, r.queue);
    end if;
    return null;
end $$;
create trigger chaos_attempt after insert or update on milepost.attempts
    for each row execute function chaos.on_attempt();

create function chaos.on_run() returns trigger language plpgsql as $$
begin
    insert into chaos.history (what, run_id, attempt, queue, detail)
    values ('state', new.run_id, new.attempt, new.queue, jsonb_build_object('was', old.state, 'now', new.state));
    return null;
end $$;
create trigger chaos_run after update on milepost.runs
    for each row when (old.state is distinct from new.state) execute function chaos.on_run();

create function chaos.on_queue() returns trigger language plpgsql as $$
begin
    insert into chaos.history (what, queue, detail) values ('limit', new.name, to_jsonb(new));
    return null;
end $$;
create trigger chaos_queue after insert or update on milepost.queues
    for each row execute function chaos.on_queue();

create function chaos.on_pod() returns trigger language plpgsql as $$
begin
    insert into chaos.history (what, run_id, attempt, detail)
    values ('launch', new.run_id, new.attempt, jsonb_build_object('pod', new.pod_id, 'epoch', new.epoch));
    return null;
end $$;
create trigger chaos_pod after update on milepost.pods
    for each row when (old.state is distinct from new.state and new.state = 'creating') execute function chaos.on_pod();
"""


async def install_audit(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Put the audit beside the schema, before the first row."""
    await connection.execute(AUDIT)


def fingerprint(text: str) -> str:
    """Tells two JSON texts apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Journal:
    """An append-only file of one process; an entry is on the disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, what: str, **facts: object) -> None:
        os.write(self._file, json.dumps({"what": what, **facts}, separators=(",", ":")).encode() + b"\n")
        os.fdatasync(self._file)


def entries(directory: Path) -> Iterator[dict[str, Any]]:
    """All entries of all journals. The last line of a killed process may be cut short: it was promised to nobody."""
    for path in sorted(directory.glob("*.journal")):
        for line in path.read_bytes().split(b"\n"):
            if line.endswith(b"}"):
                yield json.loads(line)
