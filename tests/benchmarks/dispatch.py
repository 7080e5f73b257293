"""From the commit of an HTTP trigger until a waiting sidecar has the attempt: `python -m tests.benchmarks.dispatch`.

The true api process with TLS and its duties on a Postgres with fsync; sidecars are played: each settles what it gets at
once and asks for the next. Runs come at random moments, whatever becomes of those before them (`--rate`, `--runs`).
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import uvloop

from e2e.bench.arrivals import moments
from e2e.bench.bars import Bar, machine, percentile, show
from milepost.net.client import Client
from milepost.net.messages import Reply, compact
from milepost.net.stream import Stream
from milepost.wire.pod import PREFIX, Fence, NextRequest, SessionRequest, SettleRequest
from milepost_operator.domain.runs import PodSession
from tests.benchmarks.rig import HOST, Rig, running
from tests.integration.engine import NS, apply_task

TOKEN = "s" * 32
BAR_P50, BAR_P99 = 8.0, 40.0  # milliseconds
POLL_SECONDS = 30.0
PATIENCE = 20.0
WARM = {"seconds": 3600, "max": 1000, "max_runs": 1_000_000}
CREATED = "select run_id::text as id, extract(epoch from created_at)::float8 as at from runs"


@dataclass
class Sidecar:
    """`has`: when it got each run (epoch seconds, by id)."""

    session: PodSession
    client: Client
    has: dict[str, float]
    token: str = ""

    async def call(self, route: str, body: object = None) -> Reply:
        headers = [("Authorization", f"Bearer {self.token}"), ("Content-Type", "application/json")]
        data = compact(body) if body is not None else b""  # type: ignore[arg-type]
        return await self.client.request("POST", PREFIX + route, headers, data, POLL_SECONDS)

    async def open(self) -> None:
        self.token = f"token-of-{self.session.pod_id}"
        reply = await self.call("/session", asdict(SessionRequest(self.session.pod_id, reusable=True)))
        self.token = str(json.loads(reply.body)["token"])

    async def work(self) -> None:
        """Start what is there, settle it, wait for more."""
        await self.open()
        while True:
            reply = await self.call("/start")
            if reply.status == 200:
                start = json.loads(reply.body)
                self.has[start["run_id"]] = time.time()
                fence = Fence(start["run_id"], start["attempt"], start["token"])
                await self.call("/settle", asdict(SettleRequest(fence, "succeeded", "null")))
            while not json.loads((await self.call("/next", asdict(NextRequest()))).body)["work"]:
                pass


@dataclass
class Feeder:
    """Creates runs in an open loop; `late`: how many seconds after its moment each was sent."""

    client: Client
    made: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    async def feed(self, at: Sequence[float]) -> None:
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for moment in at:
                await asyncio.sleep(max(0.0, begun + moment - time.monotonic()))
                self.late.append(time.monotonic() - begun - moment)
                group.create_task(self._create())

    async def _create(self) -> None:
        headers = [("Authorization", f"Bearer {TOKEN}"), ("Content-Type", "application/json")]
        body = compact({"task": "index", "namespace": NS})
        reply = await self.client.request("POST", "/v1/runs", headers, body, PATIENCE)
        if reply.status != 201:
            raise RuntimeError(f"a run was answered {reply.status}: {reply.body.decode()[:300]}")
        self.made.append(str(json.loads(reply.body)["id"]))


def client(rig: Rig, keep: int = 4) -> Client:
    tls = rig.client_tls()
    return Client(lambda: Stream.tcp(HOST, rig.port, tls), HOST, keep)


async def until_idle(rig: Rig, pods: int) -> None:
    query = "select count(*)::int as n from pods where state = 'idle'"
    async with asyncio.timeout(PATIENCE * 3):
        while (await rig.store._db.fetch(query))[0]["n"] < pods:  # noqa: ASYNC110  the rows have no event for it
            await asyncio.sleep(0.1)


async def measure(pods: int, rate: float, runs: int) -> list[Bar]:
    has: dict[str, float] = {}
    async with running() as rig:
        await apply_task(rig.store, warm=WARM)
        sessions = await rig.sessions(pods)
        sidecars = [asyncio.ensure_future(Sidecar(one, client(rig), has).work()) for one in sessions]
        try:
            await until_idle(rig, pods)
            feeder = Feeder(client(rig, keep=32))
            await feeder.feed(list(moments(rate, runs, seed=1)))
            async with asyncio.timeout(PATIENCE):
                while not has.keys() >= set(feeder.made):  # noqa: ASYNC110  nor has a dict
                    await asyncio.sleep(0.05)
        finally:
            for one in sidecars:
                one.cancel()
            ends = await asyncio.gather(*sidecars, return_exceptions=True)
        for end in ends:
            if not isinstance(end, asyncio.CancelledError):
                raise end if isinstance(end, BaseException) else RuntimeError("a sidecar ended")
        created = {row["id"]: row["at"] for row in await rig.store._db.fetch(CREATED)}
    took = [(has[run] - created[run]) * 1000 for run in feeder.made]
    print(f"{runs} runs at {rate:g}/s into {pods} sidecars, sent late by at most {max(feeder.late) * 1000:.1f} ms")
    return [
        Bar("dispatch_p50", percentile(took, 50), "ms", BAR_P50),
        Bar("dispatch_p99", percentile(took, 99), "ms", BAR_P99),
        Bar("dispatch_max", max(took), "ms"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=50)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--runs", type=int, default=4000)
    given = parser.parse_args()
    print(machine())
    return 0 if show(uvloop.run(measure(given.pods, given.rate, given.runs))) else 1


if __name__ == "__main__":
    sys.exit(main())
