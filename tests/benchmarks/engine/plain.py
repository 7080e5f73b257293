"""What Postgres gives without an engine: two rows a job, no limits, no fence, no policy.

`python -m tests.benchmarks.engine.plain PHASE URL JOBS CONCURRENCY`; CONCURRENCY is the batch of the drain.
"""

import asyncio
import json
import sys
import time

import asyncpg
import uvloop

CLIENTS = 8
SCHEMA = """
create table jobs (id bigserial primary key, state text not null default 'queued', input json not null,
                   done_at timestamptz);
create index on jobs (id) where state = 'queued';
create table tries (job_id bigint not null, try int not null, state text not null,
                    at timestamptz not null default now(), ended_at timestamptz, primary key (job_id, try));
"""
CLAIM = """
with picked as (
    select id from jobs where state = 'queued' order by id limit $1 for no key update skip locked
), taken as (
    update jobs j set state = 'running' from picked p where j.id = p.id returning j.id
)
insert into tries (job_id, try, state) select id, 1, 'running' from taken returning job_id
"""
COMPLETE = """
with ended as (
    update tries set state = 'ended', ended_at = now() where job_id = any($1) and state = 'running' returning job_id
)
update jobs j set state = 'succeeded', done_at = now() from ended e where j.id = e.job_id
"""


async def setup(url: str, _: int, __: int) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(SCHEMA)
    await connection.close()


async def enqueue(url: str, jobs: int, _: int) -> float:
    async with asyncpg.create_pool(url, min_size=CLIENTS, max_size=CLIENTS) as pool:

        async def client() -> None:
            async with pool.acquire() as connection:
                for _ in range(jobs // CLIENTS):
                    await connection.execute("insert into jobs (input) values ('{}')")

        began = time.perf_counter()
        await asyncio.gather(*[client() for _ in range(CLIENTS)])
        return jobs // CLIENTS * CLIENTS / (time.perf_counter() - began)


async def bulk(url: str, jobs: int, _: int) -> float:
    connection = await asyncpg.connect(url)
    began = time.perf_counter()
    await connection.execute("insert into jobs (input) select i from unnest($1::json[]) i", ["{}"] * jobs)
    rate = jobs / (time.perf_counter() - began)
    await connection.close()
    return rate


async def drain(url: str, jobs: int, concurrency: int) -> float:
    connection = await asyncpg.connect(url)
    began, done = time.perf_counter(), 0
    while claimed := await connection.fetch(CLAIM, concurrency):
        await connection.execute(COMPLETE, [row["job_id"] for row in claimed])
        done += len(claimed)
    took = time.perf_counter() - began
    await connection.close()
    if done != jobs:
        raise RuntimeError(f"{done} of {jobs} jobs")
    return jobs / took


def main() -> None:
    phase, url, jobs, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    phases = {"setup": setup, "enqueue": enqueue, "bulk": bulk, "drain": drain}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rate = runner.run(phases[phase](url, jobs, concurrency))
    sys.stdout.write("RESULT " + json.dumps({"rate": rate}) + "\n")


if __name__ == "__main__":
    main()
