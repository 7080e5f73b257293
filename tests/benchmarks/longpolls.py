"""What a request that waits for its run costs: `python -m tests.benchmarks.longpolls [--polls 2000] [--input BYTES]`.

The api is the true process with TLS, each request has a connection. Prints how much its memory (PSS) grew for
each while all wait, the processor time of the waiting, and how long the answers took once all runs had ended.
"""

import argparse
import asyncio
import resource
import ssl
import sys
import time
from pathlib import Path

import uvloop

from e2e.bench.bars import Bar, machine, show
from milepost_operator.domain.runs import NewRun, QueueIntake
from tests.benchmarks.rig import HOST, Rig, running
from tests.integration.engine import NS, apply_task

TOKEN = "s" * 32
KIB = 1024.0
BAR_KIB = 25.0
WATCHED_SECONDS = 5.0
SETTLING_SECONDS = 3.0
AT_ONCE = 20
END = "update runs set state = 'cancelled', finished_at = clock_timestamp() where finished_at is null"
TERMINAL_EVENTS = """
insert into run_events (run_id, seq, reason, message, terminal)
select run_id, event_count + 1, 'RunCancelled', '', true from runs where state = 'cancelled'
"""


def pss(pid: int) -> float:
    """KiB: what is its own, and its part of what it shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("Pss:")).split()[1])


def cpu_ms(pid: int) -> float:
    return sum(int(one.read_text().split()[0]) for one in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e6


async def poll(
    port: int, tls: ssl.SSLContext, run_id: str, seconds: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(HOST, port, ssl=tls)
    writer.write(
        f"GET /v1/runs/{run_id}?wait={seconds}&namespace={NS} HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
    )
    return reader, writer


async def answer(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> str:
    reader, writer = stream
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()
    return head.split(" ", 2)[1]


async def opened(rig: Rig, run_ids: list[str], seconds: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    gate, tls = asyncio.Semaphore(AT_ONCE), rig.client_tls()

    async def one(run_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with gate:
            return await poll(rig.port, tls, run_id, seconds)

    return list(await asyncio.gather(*map(one, run_ids)))


async def runs(rig: Rig, count: int, size: int) -> list[str]:
    text = '"' + "x" * size + '"'
    made: list[str] = []
    while len(made) < count:
        batch = [NewRun(NS, "index", text) for _ in range(min(200, count - len(made)))]
        for one in await rig.store.create_runs(batch):
            if isinstance(one, Exception):
                raise one
            made.append(str(one.run_id))
    return made


async def measure(polls: int, size: int) -> list[Bar]:
    async with running() as rig:
        await rig.store.apply_queue(QueueIntake(NS, "stopped", "u", 1, 0))
        await apply_task(rig.store, queue="stopped")
        ids = await runs(rig, polls, size)
        for _ in range(3):  # what the process keeps of its busiest moment
            warm = await opened(rig, ids[: polls // 4], 1)
            await asyncio.gather(*map(answer, warm))
        await asyncio.sleep(SETTLING_SECONDS)
        idle_pss, began = pss(rig.api.pid), cpu_ms(rig.api.pid)
        await asyncio.sleep(WATCHED_SECONDS)
        idle = (cpu_ms(rig.api.pid) - began) / WATCHED_SECONDS
        waiting = await opened(rig, ids, 60)
        await asyncio.sleep(SETTLING_SECONDS)
        full_pss, began = pss(rig.api.pid), cpu_ms(rig.api.pid)
        await asyncio.sleep(WATCHED_SECONDS)
        busy = (cpu_ms(rig.api.pid) - began) / WATCHED_SECONDS
        await rig.store._db.fetch(END)
        ended = time.perf_counter()
        statuses = await asyncio.gather(*map(answer, waiting))
        took = time.perf_counter() - ended
        await rig.store._db.fetch(TERMINAL_EVENTS)
    if set(statuses) != {"200"}:
        raise SystemExit(f"answers {sorted(set(statuses))}")
    print(f"api {idle_pss / KIB:.1f} MiB at rest, {full_pss / KIB:.1f} MiB with {polls} waiting, inputs of {size} B")
    return [
        Bar("longpoll_memory", (full_pss - idle_pss) / polls, "KiB", BAR_KIB),
        Bar("longpoll_cpu_per_second", busy - idle, "ms"),
        Bar("longpoll_all_answered", took, "s"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--polls", type=int, default=2000)
    parser.add_argument("--input", type=int, default=200, help="bytes of each run's input")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(machine())
    return 0 if show(uvloop.run(measure(given.polls, given.input))) else 1


if __name__ == "__main__":
    sys.exit(main())
