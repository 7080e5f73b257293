"""Rules that only a mistake of ours would break: each has a planted bug that its test has to notice (tests/mutants)."""

import pytest

from milepost_operator.adapters.postgres.store import PostgresStore
from tests.integration.engine import NS, apply_task, next_pod, trigger


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
async def test_a_run_that_has_ended_stays_as_it_ended(store: PostgresStore, outcome: str) -> None:
    await apply_task(store)
    run = await trigger(store)
    pod = await next_pod(store)
    await (pod.succeed() if outcome == "succeeded" else pod.fail("fatal"))
    before = await store.get_run(NS, run.name)
    await store.cancel_run(run.run_id, "somebody late")
    await store.reap(100)
    await store.promote(100)
    assert await store.admit(100) == 0
    assert (await store.get_run(NS, run.name), before.state) == (before, outcome)
