"""Versions of a Task: several at work at once, rolled back, pinned or latest; and records that are migrated."""

from itertools import count
from textwrap import dedent

from milepost.wire.pod import Wait
from milepost_operator.adapters.postgres.store import PostgresStore
from tests.integration.engine import NS, apply_task, launch, next_pod, started, trigger
from tests.integration.engine import Pod as Started
from tests.integration.test_changed_code import Runs, port, runs  # noqa: F401  (fixtures)

ONE, TWO, THREE = ({"entrypoint": f"v{n}:main"} for n in (1, 2, 3))


async def deploy(store: PostgresStore, shape: dict[str, str], **changes: object) -> int:
    return await apply_task(store, shape=shape, generation=next(_generations), **changes)


_generations = count(2)


async def pods(store: PostgresStore) -> dict[str, Started]:
    """Launch all that can be; by the name of the run."""
    found: dict[str, Started] = {}
    while sessions := await launch(store):
        for session in sessions:
            pod = Started(store, session, await started(store, session))
            found[pod.start.run_name] = pod
    return found


def entrypoints(of: dict[str, Started]) -> dict[str, tuple[int, str | None]]:
    return {name: (pod.start.version, pod.start.entrypoint) for name, pod in of.items()}


async def test_runs_stay_on_their_versions_while_several_live_and_the_task_is_rolled_back(store: PostgresStore):
    assert [await deploy(store, ONE)] == [1]
    await trigger(store, name="a")
    first = await pods(store)
    assert await deploy(store, TWO) == 2
    await trigger(store, name="b")
    second = await pods(store)
    assert await deploy(store, THREE) == 3
    await trigger(store, name="c")
    third = await pods(store)
    await first["a"].write("one")
    assert [await pod["abc"[n]].fail() for n, pod in enumerate((first, second, third))] == ["backoff"] * 3
    assert await deploy(store, ONE) == 1
    await trigger(store, name="d")
    again = await pods(store)  # three fit the queue
    assert entrypoints(again) == {"a": (1, "v1:main"), "b": (2, "v2:main"), "c": (3, "v3:main")}
    assert await again["a"].records() == [("one", "1")]
    assert [await pod.succeed() for pod in again.values()] == ["succeeded"] * 3
    assert entrypoints(await pods(store)) == {"d": (1, "v1:main")}


async def test_latest_is_taken_by_each_next_attempt_and_by_a_rollback(store: PostgresStore):
    await deploy(store, ONE, versioning="latest")
    created = await trigger(store, name="a")
    await (await next_pod(store)).fail()
    assert (await store.get_run(NS, str(created.run_id))).version is None
    await deploy(store, TWO, versioning="latest")
    pod = await next_pod(store)
    assert (pod.start.attempt, pod.start.version, pod.start.entrypoint) == (2, 2, "v2:main")
    assert (await store.get_run(NS, str(created.run_id))).version == 2
    await deploy(store, ONE, versioning="latest")
    await pod.suspend(Wait("w", "timer", seconds=0.0))
    await store.wake_runs(10)
    last = await next_pod(store)
    assert (last.start.version, last.start.cause) == (1, "resume")
    assert await last.succeed() == "succeeded"


async def test_runs_that_wait_hear_of_a_change_to_latest_and_back(store: PostgresStore):
    await deploy(store, ONE)
    for name in "abc":
        await trigger(store, name=name)
    waiting = await pods(store)
    await waiting["a"].fail()
    await waiting["b"].suspend(Wait("w", "signal", name="go"))
    await deploy(store, TWO, versioning="latest")
    rows = await store._db.fetch("select name, version from runs order by name")
    assert [tuple(row) for row in rows] == [("a", None), ("b", None), ("c", 1)]
    again = await pods(store)
    assert entrypoints(again) == {"a": (2, "v2:main")}
    await waiting["c"].fail()
    await deploy(store, THREE, versioning="pinned")
    await again["a"].fail()
    # "c" let go of its version while `latest` was wanted; "a" ended its attempt when it was not any more
    assert entrypoints(await pods(store)) == {"a": (2, "v2:main"), "c": (3, "v3:main")}


async def test_many_that_wait_are_told_in_batches(store: PostgresStore):
    await deploy(store, ONE)
    created = await trigger(store)
    await (await next_pod(store)).fail()
    await store._db.fetch(
        "insert into runs (run_id, cluster, namespace, name, task, version, queue, state, input, input_hash, origin,"
        " ready_at) select gen_random_uuid(), cluster, namespace, 'r' || n, task, 1, queue, 'backoff', input,"
        " input_hash, 'api', clock_timestamp() + interval '1 hour' from runs, generate_series(1, 2500) n"
        " where run_id = $1",
        created.run_id,
    )
    await deploy(store, TWO, versioning="latest")
    row = await store._db.fetchrow("select count(version) as pinned, count(*) as runs from runs")
    assert tuple(row) == (0, 2501)
    await deploy(store, THREE, versioning="latest")
    assert (await store._db.fetchrow("select unpinned from tasks"))[0]


async def test_what_was_decided_of_changed_code_goes_with_its_version(store: PostgresStore):
    await deploy(store, ONE, versioning="latest", on_change="hold")
    held = [await trigger(store, name=name) for name in ("accepted", "checked")]
    for pod in (await pods(store)).values():
        assert await pod.fail("changed") == "held"
    await deploy(store, TWO, versioning="latest", on_change="hold")
    for created, decision in zip(held, ("accept", "recheck"), strict=True):
        await store.decide_change(created.run_id, decision, "a test")
    found = await pods(store)
    assert {name: (pod.start.version, pod.start.on_change) for name, pod in found.items()} == {
        "accepted": (1, "accept"), "checked": (2, "hold"),
    }  # fmt: skip


OLD = dedent("""
    from milepost import task

    @task
    async def main(ctx):
        await ctx.step("fetch", lambda: note("fetch") or "a b c")
        raise RuntimeError("the network")
    """)
NEW = dedent("""
    from milepost import Recorded, task

    def migrate(recorded: Recorded, since: int) -> None:
        recorded.steps.rename("fetch", "pages")
        recorded.steps["pages"] = recorded.steps["pages"].split()

    @task(layout=2, migrate=migrate)
    async def main(ctx):
        pages = await ctx.step("pages", lambda: note("pages") or ["none"])
        again = await ctx.step("fetch", lambda: note("fetch") or "anew")
        if ctx.run.attempt == 2:
            raise RuntimeError("once more")
        return [*pages, again]
    """)
HEAD = 'def note(word):\n    with open("noted", "a") as f:\n        f.write(f"{word}\\n")\n'


async def test_records_of_an_older_layout_are_taken_over_by_processes(runs: Runs):  # noqa: F811
    created = await runs.begin()
    assert await runs.pod(HEAD + OLD) == ["fetch"]
    assert await runs.pod(HEAD + NEW) == ["fetch"]
    assert await runs.pod(HEAD + NEW) == []
    run = await runs.run(created)
    assert (run.state, run.result) == ("succeeded", '["a","b","c","anew"]')
    rows = await runs.store._db.fetch("select key, value::text from records order by seq")
    found = [(row[0].partition("/")[0], row[1]) for row in rows]
    assert found == [("fetch", '"a b c"'), ("~layout", "2"), ("fetch>~2", '"anew"')]


async def test_code_of_an_older_layout_is_held(runs: Runs):  # noqa: F811
    created = await runs.begin("hold")
    assert await runs.pod(HEAD + OLD) == ["fetch"]
    assert await runs.pod(HEAD + NEW) == ["fetch"]
    assert await runs.pod(HEAD + OLD) == []
    run = await runs.run(created)
    assert (run.state, run.reason) == ("held", "CodeChanged")
    assert "in its layout: recorded records of layout 2; found code of layout 1" in str(run.message)
