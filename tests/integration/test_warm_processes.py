"""Two runs in one pod: task, runner, sidecar, api and Postgres, each the true one."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from milepost_operator.adapters.kube.tokenreview import PodIdentity
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.api.app import ApiSettings, build_app
from milepost_operator.api.health import Health
from milepost_operator.api.next import offers_of
from milepost_operator.api.server import Listener, listening_socket
from milepost_operator.api.sessions import Sessions
from milepost_operator.api.tokens import ApiTokens
from milepost_operator.api.waiting import Waiters
from milepost_operator.domain.warm_views import WarmView
from milepost_operator.obs.metrics import Metrics
from tests.integration.engine import NS, apply_task, eventually, launch, trigger
from tests.unit.sdk.conftest import Pod

SOURCE = """
import os
from milepost import Context, task

seen = []

@task
async def main(ctx: Context, name: str):
    seen.append(await ctx.step("name", lambda: name))
    return {"seen": seen, "parent": os.getppid()}
"""


@dataclass
class Served:
    """The api on a store, with the pods that wait in it."""

    store: PostgresStore
    offers: Waiters[str]
    metrics: Metrics
    port: int = 0

    async def run(self, name: str) -> dict:
        """Trigger a run, have it admitted and handed over, and wait for its end."""
        created = await trigger(self.store, input=json.dumps({"name": name}))
        if name != "one":
            await self.store.promote(10)
            await self.store.admit(10)
            self.offers.tell((await self.store.hand_over()).pods)
        return {"run": created.run_id}

    async def result(self, run: dict) -> dict:
        async def ended() -> bool:
            return (await self.store.get_run(NS, str(run["run"]))).state.value == "succeeded"

        await eventually(ended, 20)
        return json.loads((await self.store.get_run(NS, str(run["run"]))).result or "null")

    async def state(self) -> str:
        rows = await self.store._db.fetch("select state from pods where state <> 'closed' order by created_at")
        return " ".join(row["state"] for row in rows)


@pytest.fixture
async def served(store: PostgresStore, tmp_path: Path) -> AsyncIterator[Served]:
    async def identify(token: str) -> PodIdentity:
        pod_id = token.removeprefix("token-of-")
        return PodIdentity(NS, "default", f"mp-{pod_id}-abcde", f"pod-{pod_id}")

    tokens = tmp_path / "tokens"
    tokens.write_text(f"root:*:{'s' * 32}\n")
    made = Served(store, offers_of(store), Metrics())
    store.tell_starts(made.metrics.started)
    app = build_app(
        store,
        identify,
        ApiSettings(),
        sessions=Sessions(b"k" * 32),
        tokens=ApiTokens(tokens),
        metrics=made.metrics,
        health=Health(store.ready, dict),
        poke=lambda: None,
        offers=made.offers,
    )
    listener, socket = Listener(app, 0), listening_socket(0)
    made.port = socket.getsockname()[1]
    serving = asyncio.ensure_future(listener.serve([socket]))
    yield made
    listener.should_exit = True
    await serving


async def test_a_pod_takes_a_second_run_and_ends_with_its_version(served: Served, tmp_path: Path) -> None:
    store = served.store
    await apply_task(store, shape={"source": {"inline": SOURCE}})
    first = await served.run("one")
    (session,) = await launch(store)
    home = tmp_path / "pod"
    (home / "scratch").mkdir(parents=True)
    async with AsyncExitStack() as stack:
        pod = Pod(SimpleNamespace(port=served.port), home, stack)
        (home / "token").write_text(f"token-of-{session.pod_id}")
        pod.env |= {
            "MILEPOST_POD_ID": session.pod_id,
            "MILEPOST_SCRATCH": str(home / "scratch"),
            "MILEPOST_REUSABLE": "true",
        }
        await pod.start_sidecar()
        runner = await pod.start_runner()

        async def idle() -> bool:
            return await served.state() == "idle"

        one = await served.result(first)
        await eventually(idle, 20)
        two = await served.result(await served.run("two"))
        assert (one["seen"], two["seen"]) == (["one"], ["two"]), "the second run saw the first"
        assert one["parent"] == two["parent"] == runner.pid, "the module was imported again"
        await eventually(idle, 20)
        assert await store.warm_view(NS) == [WarmView(NS, "index", 1, 0, 1, 1, "first")]
        told = served.metrics.exposition().decode()
        assert 'milepost_pod_starts_total{reason="",start="warm"} 1.0' in told
        assert 'milepost_pod_starts_total{reason="first",start="cold"} 1.0' in told
        await apply_task(store, generation=2, shape={"source": {"inline": SOURCE + "\n"}})
        assert await store.keep_warm() == 1
        served.offers.nudge()
        async with asyncio.timeout(20):
            assert await runner.wait() == 0, pod.log.read_text()
