"""The whole path of a record: task, runner, sidecar, api and Postgres, each the true one."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from milepost_operator.adapters.kube.tokenreview import PodIdentity
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.api.server import Listener, listening_socket
from tests.integration.engine import NS, apply_task, launch, trigger
from tests.integration.http_api import app_of
from tests.unit.sdk.conftest import Pod

SOURCE = """
import os
from milepost import Context, task

@task
async def main(ctx: Context, top: int = 1):
    done = await ctx.restore("done", 0)
    for n in range(done, 10):
        await ctx.step(f"part/{n}", lambda n=n: {"n": n, "text": "é"})
        await ctx.checkpoint("done", n + 1)
        if n == 4 and ctx.run.attempt == 1:
            os._exit(9)
    return {"top": top, "resumed_at": done, "attempt": ctx.run.attempt, "cause": ctx.run.cause}
"""


async def identify(token: str) -> PodIdentity:
    pod_id = token.removeprefix("token-of-")
    return PodIdentity(NS, "default", f"mp-{pod_id}-abcde", f"pod-{pod_id}")


@pytest.fixture
async def port(store: PostgresStore, tmp_path: Path) -> AsyncIterator[int]:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"root:*:{'s' * 32}\n")
    app = app_of(store, tokens, identify)
    listener = Listener(app, 0)
    socket = listening_socket(0)
    serving = asyncio.ensure_future(listener.serve([socket]))
    yield socket.getsockname()[1]
    listener.should_exit = True
    await serving


@asynccontextmanager
async def pod_of(store: PostgresStore, port: int, home: Path, **environment: str) -> AsyncIterator[Pod]:
    """The containers, not started yet, of the one attempt that wants a pod."""
    (session,) = await launch(store)
    home.mkdir()  # noqa: ASYNC240
    async with AsyncExitStack() as stack:
        pod = Pod(SimpleNamespace(port=port), home, stack)
        pod.env |= {"MILEPOST_POD_ID": session.pod_id} | environment
        (home / "token").write_text(f"token-of-{session.pod_id}")
        yield pod


async def run_pod(store: PostgresStore, port: int, home: Path) -> tuple[int, str]:
    async with pod_of(store, port, home) as pod:
        return await pod.run(), pod.log.read_text()


async def test_a_crashed_task_resumes_in_the_next_pod(store: PostgresStore, port: int, tmp_path: Path):
    await apply_task(store, shape={"source": {"inline": SOURCE}})
    created = await trigger(store, input='{"top": 3}')
    code, log = await run_pod(store, port, tmp_path / "one")
    assert code == 70, log
    code, log = await run_pod(store, port, tmp_path / "two")
    assert code == 0, log
    run = await store.get_run(NS, str(created.run_id))
    assert (run.state, run.result) == (
        "succeeded", '{"top":3,"resumed_at":5,"attempt":2,"cause":"retry"}',
    )  # fmt: skip


GROWING = """
import os
from milepost import Context, RunLimitError, task

@task
async def main(ctx: Context):
    history = await ctx.restore("history", [])
    for n in range(len(history), 20):
        history.append({"turn": n, "text": f"it was the {n}th é " * 20})
        await ctx.checkpoint("history", history)
        if n == 9 and ctx.run.attempt == 1:
            os._exit(9)
    try:
        await ctx.step("one too many", lambda: 1)
    except RunLimitError as error:
        return [error.limit, error.most, error.key, len(history)]
"""


async def test_a_history_that_grows_is_kept_as_deltas_over_attempts_up_to_the_run_s_limit(
    store: PostgresStore, port: int, tmp_path: Path
):
    await apply_task(store, shape={"source": {"inline": GROWING}}, record_limits={"max_count": 20})
    created = await trigger(store)
    assert (await run_pod(store, port, tmp_path / "one"))[0] == 70
    code, log = await run_pod(store, port, tmp_path / "two")
    assert code == 0, log
    run = await store.get_run(NS, str(created.run_id))
    assert (run.state, run.result) == ("succeeded", '["records.maxCount",20,"history",20]')
    rows = await store._db.fetch("select attempt, depth, kept_bytes, value::text from record_values order by seq")
    assert [row["depth"] for row in rows] == list(range(20)), "the second attempt went on from what it read"
    assert [row["attempt"] for row in rows] == [1] * 10 + [2] * 10
    assert max(row["kept_bytes"] for row in rows) < 600
    assert [len(json.loads(row["value"])) for row in rows] == list(range(1, 21))
