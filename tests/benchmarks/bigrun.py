"""A run with many and large records is read by its next attempt: `python -m tests.benchmarks.bigrun`.

20,000 records and 200 MB of them: the sidecar's and the api's memory while they stream, and the time it takes; then the
same bytes as values of 1 MB, and a history of 5,000 versions, of which the newest is read.
"""

import argparse
import asyncio
import json
import platform
import sys
import time
from collections.abc import Sequence

from e2e.bench.bars import Bar, machine, show
from tests.benchmarks.rig import Rig, running
from tests.benchmarks.steps import _pss
from tests.integration.engine import apply_task

RECORDS, BYTES = 20_000, 10_000
SIDECAR_MIB = 30.0

FILL = """
insert into records (run_id, seq, kind, key, attempt, write_id, value, fingerprint, bytes)
select $1, n, 'step', 'page#' || n, 1, n::text, to_json(repeat(md5(n::text), $3 / 32)), n || '(5c8f1a22)', $3 + 2
from generate_series(1, $2::int) n
"""
GROWING = """
insert into records (run_id, seq, kind, key, attempt, write_id, value, bytes, depth, base, delta)
select $1, n, 'checkpoint', 'h', 1, n::text, case when n % 128 = 1 then to_json(repeat('x', 500 * n)) end, 500 * n + 2,
       (n - 1) % 128, case when n % 128 <> 1 then n - 1 end,
       case when n % 128 <> 1 then json_build_array(json_build_array(500 * (n - 1) + 1, 0, repeat('x', 500))) end
from generate_series(1, $2::int) n where $3 > 0
"""
HEAD = "update run_heads set last_seq = $2::int, records = $2::int, last_key = 'x' where run_id = $1"


async def read(rig: Rig, what: str, query: str, count: int, size: int) -> Sequence[Bar]:
    """One run with such records, whose attempt reads them."""
    (session,) = await rig.sessions(1)
    pod = await rig.pod(session)
    (row,) = await rig.store._db.fetch("select run_id from pods where pod_id = $1", session.pod_id)
    connection = await rig.store._db.pool.acquire()
    await connection.execute("set statement_timeout = 0")
    await connection.execute(query, row["run_id"], count, size, timeout=300)
    await connection.execute(HEAD, row["run_id"], count)
    await rig.store._db.pool.release(connection)
    sidecar = await pod.start_sidecar()
    client = await pod.connected()
    await client.request("GET", "/v1/attempt", [], b"", 30.0)
    before, api_before = _pss(sidecar.pid), _pss(rig.api.pid)
    most, api_most, lines, got = before, api_before, 0, 0
    begun = time.perf_counter()
    reply, chunks = await client.stream("GET", "/v1/records?after=0", [], 60.0)
    if reply.status != 200:
        raise RuntimeError(reply.body)
    async for chunk in chunks:
        lines += chunk.count(b"\n")
        if (got + len(chunk)) // 2**22 != got // 2**22:
            most, api_most = max(most, _pss(sidecar.pid)), max(api_most, _pss(rig.api.pid))
        got += len(chunk)
    took = time.perf_counter() - begun
    begun = time.perf_counter()
    for n in range(1, 101):
        key = "checkpoints/h" if query == GROWING else f"steps/page%23{-(-n * count // 100)}"
        found = await client.request("GET", f"/v1/{key}", [], b"", 30.0)
        if found.status != 200:
            raise RuntimeError(found.body)
    lookup = (time.perf_counter() - begun) * 10
    print(
        f"{what}: {lines} lines, {got / 1e6:.0f} MB in {took:.1f} s, one by its key {lookup:.1f} ms; sidecar"
        f" {before:.1f} to {most:.1f} MiB, api {api_before:.0f} to {api_most:.0f} MiB"
    )
    await client.request("PUT", "/v1/result", [], b"1", 30.0)
    sidecar.terminate()
    return [Bar(f"{what}_sidecar_pss", most, "MiB", SIDECAR_MIB), Bar(f"{what}_read", took, "s", None)]


async def _main(share: float) -> bool:
    print(f"machine: {machine()}, CPython {platform.python_version()}")
    async with running() as rig:
        await apply_task(rig.store)
        bars = [
            *await read(rig, "records", FILL, int(RECORDS * share), BYTES),
            *await read(rig, "large", FILL, int(200 * share), 1_000_000),
            *await read(rig, "history", GROWING, int(5_000 * share), 500),
        ]
        print(json.dumps({name: value for name, value in (await rig.store.violations()).items() if value}))
    return show(bars)


def main() -> int:
    """Print the figures; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the size of each run")
    return 0 if asyncio.run(_main(parser.parse_args().share)) else 1


if __name__ == "__main__":
    sys.exit(main())
