"""A pod that stays after its attempt and takes the next one: what the rows say at each step."""

from contextlib import suppress

import pytest

from milepost.wire.pod import NO_ATTEMPT_YET, NextRequest, Wait
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.errors import ConflictError, GoneError, MilepostError
from milepost_operator.domain.runs import Created, Ending, PodSession, Retry
from milepost_operator.domain.states import Reason
from milepost_operator.settings import Settings
from tests.integration.engine import NS, Pod, apply_task, lose, next_pod, started, told, trigger

HOUR = 3600
"""Long enough for any machine."""


async def launch_warm(store: PostgresStore) -> list[PodSession]:
    """What is wanted becomes pods whose sidecars can ask for the next attempt."""
    await store.promote(100)
    await store.admit(100)
    epoch = await store.take_epoch("test", "template")
    sessions = []
    for order in await store.take_wanted(epoch, 100):
        assert await store.launched(epoch, order.pod_id, "job")
        name = f"mp-{order.pod_id}-abcde"
        sessions.append(
            await store.open_session(order.pod_id, order.namespace, f"pod-{order.pod_id}", name, reusable=True)
        )
    return sessions


async def warm_pod(store: PostgresStore, **changes: object) -> Pod:
    """A pod at work that can stay."""
    await trigger(store, **changes)
    (session,) = await launch_warm(store)
    return Pod(store, session, await started(store, session))


async def following(store: PostgresStore, session: PodSession, retire: str | None = None) -> bool:
    """Whether there is work for it."""
    (answer,) = await store.next_work([(session, NextRequest(retire))])
    return told(answer)


async def idle_pod(store: PostgresStore, **changes: object) -> PodSession:
    pod = await warm_pod(store, **changes)
    await pod.succeed()
    assert not await following(store, pod.session)
    return pod.session


async def row(store: PostgresStore, pod_id: str) -> dict[str, object]:
    (found,) = await store._db.fetch("select * from pods where pod_id = $1", pod_id)
    return dict(found)


async def state(store: PostgresStore, session: PodSession) -> object:
    return (await row(store, session.pod_id))["state"]


async def attempts(store: PostgresStore, run_id: object) -> list[tuple[object, ...]]:
    rows = await store._db.fetch(
        "select pod_id, state, cold_reason, counted, infra from attempts where run_id = $1 order by attempt", run_id
    )
    return [tuple(one) for one in rows]


async def test_the_next_run_starts_in_the_pod_of_the_last_one(store: PostgresStore) -> None:
    await apply_task(store)
    pod = await warm_pod(store)
    first = pod.start
    await pod.succeed()
    rested = await row(store, pod.session.pod_id)
    assert (rested["state"], rested["run_id"], rested["attempt"], rested["runs"]) == ("resting", None, None, 1)
    with pytest.raises(GoneError):
        await started(store, pod.session)
    assert not await following(store, pod.session)
    assert await state(store, pod.session) == "idle"
    run = await trigger(store, input='{"n": 2}')
    await store.admit(10)
    handed = await store.hand_over()
    assert (list(handed.pods), handed.missed) == ([pod.session.pod_id], False)
    assert await state(store, pod.session) == "offered"
    assert await following(store, pod.session)
    start = await started(store, pod.session)
    assert (start.run_id, start.attempt, start.input) == (str(run.run_id), 1, '{"n": 2}')
    assert start.token > first.token
    assert await state(store, pod.session) == "bound"
    assert await following(store, pod.session), "a sidecar that was restarted asks again"
    warm = Pod(store, pod.session, start)
    assert await warm.write("a") == [1]
    assert isinstance(await pod.write("late"), MilepostError)
    assert await warm.succeed() == "succeeded"
    assert await attempts(store, run.run_id) == [(pod.session.pod_id, "ended", None, False, False)]
    assert await attempts(store, first.run_id) == [(pod.session.pod_id, "ended", "first", False, False)]
    assert (await row(store, pod.session.pod_id))["runs"] == 2
    assert (await store._db.fetch("select count(*) from pods"))[0][0] == 1
    assert (await store.get_run(NS, run.name)).pod_id == pod.session.pod_id


async def offered(store: PostgresStore, session: PodSession, **changes: object) -> Created:
    """A run whose attempt is reserved to the idle pod."""
    run = await trigger(store, **changes)
    await store.admit(10)
    assert session.pod_id in (await store.hand_over()).pods
    return run


async def ago(store: PostgresStore, column: str, seconds: float, where: str = "true") -> None:
    query = f"update pods set {column} = {column} - make_interval(secs => $1) where {where}"
    await store._db.fetch(query, seconds)


async def test_a_sidecar_that_says_nothing_of_reuse_has_its_pod_closed(store: PostgresStore) -> None:
    await apply_task(store)
    await trigger(store)
    pod = await next_pod(store)
    await pod.succeed()
    assert await state(store, pod.session) == "closing"
    with pytest.raises(GoneError):
        await following(store, pod.session)


async def test_what_the_attempt_was_decides_whether_its_pod_stays(store: PostgresStore) -> None:
    await apply_task(store, retry=Retry(max_attempts=1))
    expected = {"succeed": "resting", "user": "resting", "suspend": "resting", "oom": "closing", "crash": "closing"}
    found = {}
    for outcome in expected:
        pod = await warm_pod(store)
        if outcome == "suspend":
            await pod.suspend(Wait("w", "signal", name="go"))
        else:
            await (pod.succeed() if outcome == "succeed" else pod.fail(outcome))
        found[outcome] = await state(store, pod.session)
        await store._db.fetch("update pods set state = 'closing' where state = 'resting'")
    assert found == expected


ROOT = {"pod": {"readOnlyRootFilesystem": False}}
TASKS: list[tuple[dict[str, object], dict[str, object], str]] = [
    ({"command": ["a"]}, {"reuse": "task"}, "closing"),
    (ROOT, {}, "closing"),
    (ROOT, {"reuse": "task"}, "resting"),
    ({"pod": {"volumeMounts": [{"name": "v"}], "volumes": [{"name": "v", "emptyDir": {}}]}}, {}, "closing"),
    ({"pod": {"volumeMounts": [{"name": "v"}], "volumes": [{"name": "v", "secret": {}}]}}, {}, "resting"),
    ({"pod": {"volumeMounts": [{"name": "v", "readOnly": True}]}}, {}, "resting"),
    ({}, {"seconds": 0}, "closing"),
    ({}, {"reuse": "never"}, "closing"),
    ({}, {"max_runs": 1}, "closing"),
]


async def test_what_the_task_is_and_says_decides_too(store: PostgresStore) -> None:
    found = []
    for number, (shape, warm, _) in enumerate(TASKS):
        entry = {} if "command" in shape else {"entrypoint": "a:b"}
        await apply_task(store, f"t{number}", shape=entry | shape, warm=warm)
        pod = await warm_pod(store, task=f"t{number}")
        await pod.succeed()
        found.append(await state(store, pod.session))
    assert found == [expected for *_, expected in TASKS]


async def test_an_offer_that_is_not_taken_up_goes_back_and_nothing_is_burnt(store: PostgresStore) -> None:
    await apply_task(store)
    session = await idle_pod(store)
    run = await offered(store, session)
    await ago(store, "offered_at", -HOUR, "state = 'offered'")
    assert await store.keep_warm() == 0, "it has its time"
    await ago(store, "offered_at", HOUR + 3, "state = 'offered'")
    assert await store.keep_warm() == 1
    assert await state(store, session) == "closing"
    with pytest.raises(GoneError):
        await started(store, session)
    with pytest.raises(GoneError):
        await following(store, session)
    events = await store._db.fetch("select reason from run_events where run_id = $1 order by seq", run.run_id)
    assert [row["reason"] for row in events] == ["RunAdmitted"]
    (other,) = await launch_warm(store)
    start = await started(store, other)
    assert (start.run_id, start.attempt, start.attempts_counted) == (str(run.run_id), 1, 0)
    assert await attempts(store, run.run_id) == [(other.pod_id, "running", "returned", False, False)]


async def test_an_offered_pod_that_ends_gives_back_what_it_had(store: PostgresStore) -> None:
    await apply_task(store)
    session = await idle_pod(store)
    run = await offered(store, session)
    await lose(store, session.pod_id, Ending(Reason.POD_LOST, "gone", counted=False, infra=True))
    assert await state(store, session) == "closing"
    assert [(a[1], a[4]) for a in await attempts(store, run.run_id)] == [("reserved", False)]
    view = await store.get_run(NS, run.name)
    assert (view.state, view.attempt) == ("admitted", 1)
    (other,) = await launch_warm(store)
    assert (await started(store, other)).run_id == str(run.run_id)


async def test_a_pod_that_is_retired_closes_unless_it_is_at_work(store: PostgresStore) -> None:
    for when in ("resting", "idle", "offered", "bound"):
        await apply_task(store, when)
        pod = await warm_pod(store, task=when)
        if when != "bound":
            await pod.succeed()
        if when in {"idle", "offered"}:
            await following(store, pod.session)
        run = await offered(store, pod.session, task=when) if when == "offered" else None
        assert await state(store, pod.session) == when
        await store.retire_pod(await store.take_epoch("test", "template"), pod.session.pod_id, "deleted")
        if run:
            assert (await store.get_run(NS, run.name)).state == "admitted"
            await store.cancel_run(run.run_id, "test")
        assert await state(store, pod.session) == ("bound" if when == "bound" else "closing")
        await lose(store, pod.session.pod_id, Ending(Reason.POD_LOST, "gone", counted=False, infra=True))
        assert await state(store, pod.session) == "closing"
        await store.close_pod(pod.session.pod_id)


async def test_the_parent_retires_its_pod(store: PostgresStore) -> None:
    await apply_task(store)
    pod = await warm_pod(store)
    await pod.succeed()
    with pytest.raises(GoneError):
        await following(store, pod.session, retire="grew")
    found = await row(store, pod.session.pod_id)
    assert (found["state"], found["retired"]) == ("closing", "grew")


async def test_a_cancel_takes_the_attempt_from_the_pod_that_was_to_begin_it(store: PostgresStore) -> None:
    await apply_task(store)
    session = await idle_pod(store)
    run = await offered(store, session)
    await store.cancel_run(run.run_id, "test")
    assert (await store.get_run(NS, run.name)).state == "cancelled"
    with pytest.raises(GoneError):
        await started(store, session)
    assert await state(store, session) == "closing"


async def test_idle_pods_end_with_their_time_their_version_and_their_template(store: PostgresStore) -> None:
    await apply_task(store, warm={"seconds": HOUR})
    session = await idle_pod(store)
    await ago(store, "rested_at", HOUR / 2)
    assert await store.keep_warm() == 0
    await ago(store, "rested_at", HOUR / 2)
    assert await store.keep_warm() == 1
    assert (await row(store, session.pod_id))["retired"] == "idle"
    session = await idle_pod(store)
    await apply_task(store, generation=2, shape={"entrypoint": "a:c"})
    assert await store.keep_warm() == 1
    assert (await row(store, session.pod_id))["retired"] == "version"
    session = await idle_pod(store)
    await store.take_epoch("test", "another")
    assert await store.keep_warm() == 1
    assert (await row(store, session.pod_id))["retired"] == "template"


async def test_a_pod_that_does_not_come_back_is_given_up(store: PostgresStore) -> None:
    await apply_task(store)
    pod = await warm_pod(store)
    await pod.succeed()
    await ago(store, "rested_at", 16)
    assert await store.keep_warm() == 1
    assert (await row(store, pod.session.pod_id))["retired"] == "silent"


async def idle_pods(store: PostgresStore, count: int, task: str = "index", **changes: object) -> list[PodSession]:
    """At work at once, then idle one after the other."""
    for _ in range(count):
        await trigger(store, task, **changes)
    sessions = await launch_warm(store)
    pods = [Pod(store, session, await started(store, session)) for session in sessions]
    for pod in pods:
        await pod.succeed()
        with suppress(GoneError):
            await following(store, pod.session)
    return [pod.session for pod in pods]


async def test_no_more_pods_wait_than_may(settings: Settings) -> None:
    capped = settings.model_copy(update={"warm_max": 2, "warm_total": 3, "default_queue_concurrency": 10})
    async with PostgresStore.open(capped) as store:
        await apply_task(store)
        await apply_task(store, "other")
        await apply_task(store, "third", warm={"max": 1})
        first = await idle_pods(store, 3)
        assert [await state(store, s) for s in first] == ["closing", "idle", "idle"]
        (third, over) = await idle_pods(store, 2, "third")
        assert sorted([await state(store, third), await state(store, over)]) == ["closing", "idle"]
        await ago(store, "rested_at", 10, "task = 'index'")
        await idle_pods(store, 1, "other")
        rows = await store._db.fetch("select task from pods where state = 'idle' order by task")
        assert [row["task"] for row in rows] == ["index", "other", "third"]
        assert {k: v for k, v in (await store.violations()).items() if v} == {}
        epoch = await store.take_epoch("test", "template")
        assert await store.make_room(epoch, "elsewhere") is False
        assert await store.make_room(epoch, NS) is True
        rows = await store._db.fetch("select task from pods where state = 'idle' order by task")
        assert [row["task"] for row in rows] == ["other", "third"]


async def test_a_launcher_leaves_to_warm_pods_what_they_can_take(store: PostgresStore) -> None:
    await apply_task(store)
    (one, two) = await idle_pods(store, 2)
    await store._db.fetch("update pods set tenure_seconds = 60")
    runs = [await trigger(store) for _ in range(3)]
    await store.admit(10)
    await ago(store, "created_at", -HOUR, "state = 'wanted'")
    epoch = await store.take_epoch("test", "template")
    (order,) = await store.take_wanted(epoch, 10)
    assert await noted(store, order.pod_id) == "busy"
    assert await store.take_wanted(epoch, 10) == []
    assert sorted((await store.hand_over()).pods) == sorted([one.pod_id, two.pod_id])
    taken = [(await attempts(store, run.run_id))[0][0] for run in runs]
    assert taken[2] == order.pod_id, "the youngest"
    assert await store.take_wanted(epoch, 10) == []


async def test_what_warm_pods_leave_for_a_second_is_launched(store: PostgresStore) -> None:
    await apply_task(store)
    pod = await warm_pod(store)
    await pod.succeed()
    await trigger(store)
    await store.admit(10)
    await ago(store, "rested_at", -HOUR, "state = 'resting'")
    await ago(store, "created_at", -HOUR, "state = 'wanted'")
    epoch = await store.take_epoch("test", "template")
    assert await store.take_wanted(epoch, 10) == [], "the pod that rests is back in a moment"
    await ago(store, "created_at", HOUR + 2, "state = 'wanted'")
    (order,) = await store.take_wanted(epoch, 10)
    assert await noted(store, order.pod_id) == "late"


async def noted(store: PostgresStore, pod_id: str) -> str:
    """Why a pod had to be made."""
    (row,) = await store._db.fetch("select cold_reason from pods where pod_id = $1", pod_id)
    return str(row["cold_reason"])


async def cold_reason(store: PostgresStore, template: str = "template", **changes: object) -> str:
    await trigger(store, **changes)
    await store.admit(10)
    epoch = await store.take_epoch("test", template)
    (order,) = await store.take_wanted(epoch, 10)
    assert await store.launched(epoch, order.pod_id, "job")
    return await noted(store, order.pod_id)


async def test_each_cold_start_has_its_reason(store: PostgresStore) -> None:
    await apply_task(store)
    assert await cold_reason(store) == "first"
    assert await cold_reason(store) == "busy"
    assert await cold_reason(store, template="another") == "template"
    await apply_task(store, "off", warm={"reuse": "never"})
    await store._db.fetch("update queues set concurrency = 10")
    assert await cold_reason(store, task="off") == "off"
    await apply_task(store, generation=2, shape={"entrypoint": "a:c"})
    await store._db.fetch("update queues set concurrency = 10")
    assert await cold_reason(store) == "version"


async def test_a_pod_is_for_runs_of_its_key_alone_where_the_task_says_so(store: PostgresStore) -> None:
    await apply_task(store, warm={"reuse": "key"})
    session = await idle_pod(store, concurrency_key="k1")
    assert await cold_reason(store, concurrency_key="k2") == "key"
    assert (await store.hand_over()).pods == []
    run = await offered(store, session, concurrency_key="k1")
    assert (await started(store, session)).run_id == str(run.run_id)


async def busy_pods(store: PostgresStore, count: int, tenure: float) -> list[Pod]:
    """Pods at work on their second attempt, whose first took so many seconds."""
    sessions = await idle_pods(store, count)
    await store._db.fetch("update pods set tenure_seconds = $1", tenure)
    for _ in range(count):
        await trigger(store)
    await store.admit(10)
    assert len((await store.hand_over()).pods) == count
    return [Pod(store, session, await started(store, session)) for session in sessions]


async def test_a_launcher_counts_on_pods_at_work_that_will_be_back_in_a_moment(store: PostgresStore) -> None:
    await apply_task(store)
    pods = await busy_pods(store, 2, tenure=0.5)
    run = await trigger(store)
    await store.admit(10)
    await ago(store, "created_at", -HOUR, "state = 'wanted'")
    epoch = await store.take_epoch("test", "template")
    assert await store.take_wanted(epoch, 10) == []
    await ago(store, "created_at", HOUR + 5, "state = 'wanted'")
    (order,) = await store.take_wanted(epoch, 10)
    assert await noted(store, order.pod_id) == "busy", "not for longer than a new pod would have taken"
    await pods[0].succeed()
    assert await following(store, pods[0].session)
    assert (await started(store, pods[0].session)).run_id == str(run.run_id)
    assert (await attempts(store, run.run_id))[0][2] is None, "no cold start"


async def test_pods_whose_attempts_take_long_are_not_counted_on(store: PostgresStore) -> None:
    await apply_task(store)
    await busy_pods(store, 2, tenure=60.0)
    await trigger(store)
    await store.admit(10)
    assert len(await store.take_wanted(await store.take_epoch("test", "template"), 10)) == 1


async def test_a_launched_pod_that_lost_its_attempt_waits_once_it_is_there(store: PostgresStore) -> None:
    await apply_task(store)
    pod = await warm_pod(store)
    run = await trigger(store)
    await store.admit(10)
    epoch = await store.take_epoch("test", "template")
    (order,) = await store.take_wanted(epoch, 10)
    assert await store.launched(epoch, order.pod_id, "job")
    await pod.succeed()
    assert await following(store, pod.session)
    assert (await started(store, pod.session)).run_id == str(run.run_id)
    (free,) = [one for one in await store.open_pods() if one.state == "created"]
    assert (free.pod_id, free.run_id, free.grace_seconds) == (order.pod_id, None, 0)
    assert {k: v for k, v in (await store.violations()).items() if v} == {}
    session = await store.open_session(order.pod_id, NS, "u", f"mp-{order.pod_id}-abcde", reusable=True)
    with pytest.raises(ConflictError) as refused:
        await started(store, session)
    assert refused.value.code == NO_ATTEMPT_YET
    assert not await following(store, session)
    assert await state(store, session) == "idle"
    later = await trigger(store)
    await store.admit(10)
    assert (await store.hand_over()).pods == [order.pod_id]
    assert (await started(store, session)).run_id == str(later.run_id)


async def test_one_whose_sidecar_can_not_wait_or_that_is_one_too_many_closes(store: PostgresStore) -> None:
    await apply_task(store, warm={"max": 2})
    await store._db.fetch("update queues set concurrency = 10")
    pods = [await warm_pod(store), await warm_pod(store)]
    runs = [await trigger(store) for _ in range(2)]
    await store.admit(10)
    epoch = await store.take_epoch("test", "template")
    one, two = await store.take_wanted(epoch, 10)
    assert await store.launched(epoch, one.pod_id, "job")
    for pod in pods:
        await pod.succeed()
        assert await following(store, pod.session)
    assert [(await attempts(store, run.run_id))[0][0] for run in runs] == [pod.session.pod_id for pod in pods]
    assert (await row(store, two.pod_id))["state"] == "closing", "its Job may not be there"
    assert not await store.launched(epoch, two.pod_id, "job")
    await store.open_session(one.pod_id, NS, "u", f"mp-{one.pod_id}-abcde")
    assert (await row(store, one.pod_id))["state"] == "closing"
    assert {k: v for k, v in (await store.violations()).items() if v} == {}
