"""Code that changes under a run, from the task's process to its row, its object and the public API."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest

import milepost.client
from milepost.client import AsyncMilepost, Milepost
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import ConflictError
from milepost_operator.domain.runs import Created, Retry, RunView
from milepost_operator.manifests.run_cr import status
from tests.integration.engine import NS, Pod, apply_task, launch, next_pod, trigger
from tests.integration.test_pod_processes import port  # noqa: F401  (a fixture)
from tests.unit.sdk import conftest as sdk

HEAD = """
from milepost import task, current

def note(word):
    with open("noted", "a") as f:
        f.write(f"{word} {current().idempotency_key}\\n")
    return word

@task
async def main(ctx):
"""
FIRST = (
    HEAD
    + """
    await ctx.step("charge", note, "charge")
    await ctx.step("ship", note, "ship")
    raise RuntimeError("the network")
"""
)
CHANGED = (
    HEAD
    + """
    await ctx.step("check", note, "check")
    await ctx.step("charge", note, "charge")
    await ctx.step("ship", note, "ship")
    return "done"
"""
)
RIGHT = FIRST.replace('raise RuntimeError("the network")', 'return "done"')


class Runs:
    """A task whose image's tag moves: each pod has the code that it is given."""

    def __init__(self, store: PostgresStore, port: int, home: Path, stack: AsyncExitStack) -> None:  # noqa: F811
        self.store = store
        self.home = home
        self._port = port
        self._stack = stack
        self._pods = 0

    async def begin(self, on_change: str = "fail", **changes: object) -> Created:
        shape = {"image": "shop:latest", "entrypoint": "job:main"}
        await apply_task(self.store, shape=shape, on_change=on_change, **changes)
        return await trigger(self.store)

    async def pod(self, code: str) -> list[str]:
        """Run the next attempt with this code; the steps it ran, with their keys."""
        (session,) = await launch(self.store)
        self._pods += 1
        home = self.home / str(self._pods)
        await asyncio.to_thread(home.mkdir)
        (home / "job.py").write_text(code)
        pod = sdk.Pod(SimpleNamespace(port=self._port), home, self._stack)
        pod.env["MILEPOST_POD_ID"] = session.pod_id
        (home / "token").write_text(f"token-of-{session.pod_id}")
        await pod.run()
        return pod.lines()

    async def run(self, created: Created) -> RunView:
        return await self.store.get_run(NS, str(created.run_id))

    async def events(self, created: Created) -> list[str]:
        rows = await self.store._db.fetch(
            "select reason from run_events where run_id = $1 order by seq", created.run_id
        )
        return [row["reason"] for row in rows]


@pytest.fixture
async def runs(store: PostgresStore, port: int, tmp_path: Path) -> AsyncIterator[Runs]:  # noqa: F811
    async with AsyncExitStack() as stack:
        yield Runs(store, port, tmp_path, stack)


@pytest.fixture
async def client(port: int) -> AsyncIterator[httpx2.AsyncClient]:  # noqa: F811
    headers = {"Authorization": f"Bearer {'s' * 32}"}
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as made:
        yield made


SAYS = "recorded step 'charge' as call 1 of the task; found step 'check' there"


async def test_by_default_the_run_fails_before_anything_runs_twice(runs: Runs):
    created = await runs.begin()
    assert len(await runs.pod(FIRST)) == 2
    assert await runs.pod(CHANGED) == []
    run = await runs.run(created)
    assert (run.state, run.reason, run.attempts_counted, run.dead_lettered) == ("failed", "CodeChanged", 1, False)
    assert SAYS in str(run.message)
    assert run.error["type"] == "ChangedCodeError"


async def test_a_held_run_gives_its_slot_back_and_goes_on_by_a_decision(runs: Runs, client: httpx2.AsyncClient):
    created = await runs.begin("hold")
    first = await runs.pod(FIRST)
    assert await runs.pod(CHANGED) == []
    run = await runs.run(created)
    assert (run.state, run.reason, run.attempts_counted) == ("held", "CodeChanged", 1)
    shown = status(run)
    assert (shown["phase"], shown["reason"]) == ("Held", "CodeChanged")
    assert SAYS in shown["message"]
    assert (await runs.events(created))[-1] == "RunHeld"
    queue = await runs.store.get_queue(NS, "default")
    assert queue.running == 0
    asked = f"/v1/runs/{created.name}/decision?namespace={NS}"
    seen = (await client.get(f"/v1/runs/{created.name}?namespace={NS}")).json()
    assert (seen["why"]["code"], seen["error"]["type"]) == ("CodeChanged", "ChangedCodeError")
    assert SAYS in seen["why"]["sentence"]
    for body, code in (({}, 422), ({"decision": "yes"}, 422), ({"decision": "accept", "x": 1}, 422)):
        assert (await client.post(asked, json=body)).status_code == code
    decided = await client.post(asked, json={"decision": "accept"})
    assert (decided.status_code, decided.json()["state"]) == (202, "queued")
    again = await client.post(asked, json={"decision": "fail"})
    assert (again.status_code, again.json()["code"]) == (409, "not-held")
    (only,) = await runs.pod(CHANGED)
    assert only.startswith("check ")
    run = await runs.run(created)
    assert (run.state, run.result, run.attempts_counted) == ("succeeded", '"done"', 1)
    assert [a.cause for a in await runs.store.get_attempts(created.run_id)] == ["first", "retry", "resume"]
    assert len(first) == 2


async def test_an_accepted_version_stays_accepted(runs: Runs):
    created = await runs.begin("hold")
    await runs.pod(FIRST)
    await runs.pod(CHANGED)
    await runs.store.decide_change(created.run_id, "accept", "me")
    await runs.pod(CHANGED.replace('return "done"', 'raise RuntimeError("again")'))
    assert (await runs.run(created)).state == "backoff"
    assert await runs.pod(CHANGED) == []
    assert (await runs.run(created)).state == "succeeded"


async def test_what_can_not_be_accepted_holds_an_accepted_run_again(runs: Runs):
    created = await runs.begin("hold")
    await runs.pod(FIRST)
    await runs.pod(CHANGED)
    await runs.store.decide_change(created.run_id, "accept", "me")
    misfit = CHANGED.replace("def note(word):", "def note(word) -> int:")
    assert await runs.pod(misfit.replace('"check", note', '"check", len')) == []
    run = await runs.run(created)
    assert (run.state, run.reason, run.attempts_counted) == ("held", "CodeChanged", 1)
    assert "charge" in str(run.message)


async def test_a_recheck_goes_on_once_the_code_was_put_right(runs: Runs):
    created = await runs.begin("hold", retry=Retry(max_attempts=2, min_seconds=0.0, max_seconds=0.0))
    await runs.pod(FIRST)
    for _ in range(3):  # a decision counts against nothing
        assert await runs.pod(CHANGED) == []
        assert (await runs.run(created)).state == "held"
        await runs.store.decide_change(created.run_id, "recheck", "me")
    assert await runs.pod(RIGHT) == []
    assert (await runs.run(created)).state == "succeeded"


async def test_a_decision_to_fail(runs: Runs):
    created = await runs.begin("hold")
    await runs.pod(FIRST)
    await runs.pod(CHANGED)
    await runs.store.decide_change(created.run_id, "fail", "zoë")
    run = await runs.run(created)
    assert (run.state, run.reason) == ("failed", "CodeChanged")
    assert str(run.message).endswith("(decided by zoë)")
    assert run.error["type"] == "ChangedCodeError"
    assert (await runs.events(created))[-1] == "RunFailed"
    with pytest.raises(ConflictError, match="waits for no decision"):
        await runs.store.decide_change(created.run_id, "accept", "me")


async def test_accept_on_the_task(runs: Runs):
    created = await runs.begin("accept")
    await runs.pod(FIRST)
    (only,) = await runs.pod(CHANGED)
    assert only.startswith("check ")
    assert (await runs.run(created)).state == "succeeded"


async def test_a_retry_of_the_run_passes_on_the_same_keys_and_meets_the_changed_code(runs: Runs):
    created = await runs.begin(retry=Retry(max_attempts=1))
    first = await runs.pod(FIRST.replace('await ctx.step("ship", note, "ship")', ""))
    again = await runs.store.redrive(NS, [str(created.run_id)], "me")
    (ship,) = await runs.pod(RIGHT)
    assert [line.split()[0] for line in first] == ["charge"]
    assert ship.split()[1].startswith(str(created.run_id))
    made = await runs.store.get_run(NS, str(again[0].made))
    assert made.state == "succeeded"
    retried = await runs.store.retry_run(made.run_id, "me")
    assert await runs.pod(CHANGED) == []
    assert (await runs.store.get_run(NS, str(retried.run_id))).reason == "CodeChanged"
    key_run = await runs.store._db.fetchrow("select key_run from runs where run_id = $1", retried.run_id)
    assert str(key_run["key_run"]) == str(created.run_id)  # of the first of them all


async def test_the_clients_decide(store: PostgresStore, port: int):  # noqa: F811
    url, token = f"http://127.0.0.1:{port}", "s" * 32
    created, _ = await held(store)

    def accept() -> str:
        with Milepost(url, token) as client:
            return client.decide(created.name, "accept", namespace=NS).state

    assert await asyncio.to_thread(accept) == "queued"
    async with AsyncMilepost(url, token) as client:
        with pytest.raises(milepost.client.ConflictError, match="is queued: it waits for no decision"):
            await client.decide(created.name, "fail", namespace=NS)
        await (await next_pod(store)).fail("changed")
        assert (await client.decide(created.name, "fail", namespace=NS)).state == "failed"


async def held(store: PostgresStore, **changes: object) -> tuple[Created, Pod]:
    await apply_task(store, on_change="hold", **changes)
    created = await trigger(store)
    pod = await next_pod(store)
    await pod.write("a")
    assert await pod.fail("changed") == "held"
    return created, pod


async def test_a_settle_that_is_sent_again_holds_once(store: PostgresStore):
    created, pod = await held(store)
    assert await pod.fail("changed") == "held"
    await store.decide_change(created.run_id, "recheck", "me")
    assert (await next_pod(store)).start.attempt == 2
    with pytest.raises(ConflictError, match="attempt 1 is settled"):
        raise await pod.write("b")


async def test_racing_decisions_make_one(store: PostgresStore):
    created, _ = await held(store)
    decisions = [store.decide_change(created.run_id, one, "me") for one in ("accept", "fail", "recheck", "fail")]
    ends = await asyncio.gather(*decisions, return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["ConflictError"] * 3 + ["NoneType"]


async def test_a_held_run_is_cancelled_at_once(store: PostgresStore):
    created, _ = await held(store)
    await store.cancel_run(created.run_id, "me")
    assert (await store.get_run(NS, str(created.run_id))).state == "cancelled"
    with pytest.raises(ConflictError, match="waits for no decision"):
        await store.decide_change(created.run_id, "accept", "me")


async def test_a_cancel_under_way_wins(store: PostgresStore):
    await apply_task(store, on_change="hold")
    created = await trigger(store)
    pod = await next_pod(store)
    await store.cancel_run(created.run_id, "me")
    assert await pod.fail("changed") == "cancelled"


async def test_its_time_stands_still_and_nobody_decides_for_ever(store: PostgresStore):
    created, _ = await held(store)
    back = "update runs set run_deadline_at = clock_timestamp() - interval '1 s', held_at = held_at - interval '1 h'"
    await store._db.fetch(back)
    await store.reap(10)
    assert (await store.get_run(NS, str(created.run_id))).state == "held"
    await store.decide_change(created.run_id, "recheck", "me")
    left = "select run_deadline_at - clock_timestamp() > interval '59 min' as ok from runs"
    assert (await store._db.fetchrow(left))["ok"]
    await (await next_pod(store)).fail("changed")
    await store._db.fetch("update runs set held_at = held_at - interval '2 days'")
    await store.reap(10)
    run = await store.get_run(NS, str(created.run_id))
    assert (run.state, str(run.message)[:14]) == ("expired", "held for too l")


async def test_its_task_is_deleted_while_it_is_held(store: PostgresStore):
    created, _ = await held(store)
    await store.remove_task(NS, "index")
    await store.decide_change(created.run_id, "accept", "me")
    assert await launch(store) == []
    run = await store.get_run(NS, str(created.run_id))
    assert (run.state, run.reason) == ("held", "TaskNotFound")
    await apply_task(store, on_change="hold", generation=2)
    assert (await next_pod(store)).start.on_change == "accept"


async def test_the_setting_is_the_tasks_of_now(store: PostgresStore):
    await apply_task(store)
    await trigger(store)
    pod = await next_pod(store)
    assert (pod.start.on_change, pod.start.origin, pod.start.key_run) == ("fail", "api", pod.start.run_id)
    await pod.fail()
    await apply_task(store, on_change="accept", generation=2)
    assert (await next_pod(store)).start.on_change == "accept"
