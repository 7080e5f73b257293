import pytest

from milepost_operator.domain.errors import ConflictError, QueueFullError, ThrottledError, UnavailableError
from milepost_operator.domain.runs import Created, Debounce, Singleton, Throttle
from milepost_operator.domain.states import RunState
from milepost_operator.manifests.network import NetworkSettings
from milepost_operator.ports.network import TaskNetwork
from milepost_operator.reconcile.backlog import Backlog
from milepost_operator.reconcile.intake import ObjectIntake
from milepost_operator.reconcile.network import TaskNetworks
from tests.fakes.crd_samples import ENTRY, FULL, run, task
from tests.unit.operator.intake import NOW, cluster, conditions, intake, store
from tests.unit.operator.store import RUN_ID

__all__ = ["cluster", "intake", "store"]


async def test_a_task_becomes_a_version_and_says_so(intake, store, cluster):
    body = cluster.put("tasks", task(FULL))
    await intake.on_task(body, deleted=False)
    ((taken,),) = store.of("task")
    assert taken.queue == "etl"
    assert taken.retry.max_attempts == 5
    assert taken.timeouts.attempt_seconds == 600
    assert taken.shape["resources"]["limits"] == {"cpu": "1", "memory": "512Mi", "example.com/gpu": "1"}
    assert set(taken.shape) == {"image", "entrypoint", "resources", "env", "envFrom", "pod"}
    assert taken.warm == {
        "seconds": 300, "max": 2, "min": 0, "predict": False, "reuse": "key", "max_runs": 50, "max_age_seconds": 900,
    }  # fmt: skip
    assert (taken.prepull, taken.restart) == (False, None)
    (shown,) = cluster.of("tasks")
    assert shown["status"]["version"] == 7
    assert conditions(cluster, "tasks") == {"Accepted": ("True", "Accepted"), "QueueFound": ("False", "QueueNotFound")}


async def test_a_network_that_no_task_may_open_is_refused_before_anything_is_kept(store, cluster):
    networks = TaskNetworks(store, cluster, NetworkSettings("system", {}, 8443, closed=["169.254.0.0/16"]), ())
    intake = ObjectIntake(store, cluster, networks, clock=lambda: NOW, max_input_bytes=1000)
    metadata = {"network": {"allow": [{"cidr": "169.254.169.254/32"}]}}
    await intake.on_task(cluster.put("tasks", task(ENTRY | metadata)), deleted=False)
    assert store.of("task") == []
    assert conditions(cluster, "tasks") == {"Accepted": ("False", "InvalidNetwork")}
    (shown,) = cluster.of("tasks")
    assert "spec.network.allow[0].cidr" in shown["status"]["conditions"][0]["message"]


async def test_a_task_says_that_its_network_is_in_place(store, cluster):
    networks = TaskNetworks(store, cluster, NetworkSettings("system", {}, 8443), ())
    intake = ObjectIntake(store, cluster, networks, clock=lambda: NOW, max_input_bytes=1000)
    body = cluster.put("tasks", task(ENTRY | {"network": {"egress": "none"}}))
    store.networks = [TaskNetwork("team", body["metadata"]["name"], {"egress": "none"})]
    await intake.on_task(body, deleted=False)
    assert store.of("task")[0][0].network == {"egress": "none"}
    assert "network" not in store.of("task")[0][0].shape
    assert conditions(cluster, "tasks")["NetworkApplied"] == ("True", "Applied")
    assert len(cluster.of("policies")) == 2


async def test_the_same_task_again_changes_nothing(intake, store, cluster):
    body = cluster.put("tasks", task(FULL))
    await intake.on_task(body, deleted=False)
    (shown,) = cluster.of("tasks")
    before = len(cluster.calls)
    await intake.on_task(shown, deleted=False)
    assert len(store.of("task")) == 1
    assert [c for c in cluster.calls[before:] if c[0] == "patch_status"] == []


async def test_a_task_that_makes_no_sense_gets_a_condition_and_no_version(intake, store, cluster):
    body = cluster.put("tasks", task({"image": "a", "resources": {"limits": {"cpu": "0"}}}))
    await intake.on_task(body, deleted=False)
    assert not store.of("task")
    assert conditions(cluster, "tasks") == {"Accepted": ("False", "Invalid")}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "text"}, "spec.inputSchema: $.type: is one of"),
        ({"$ref": "https://example.com/a"}, "nothing is fetched"),
        ({"$ref": "#"}, "leads to itself"),
        ({"properties": {"a": {"pattern": "(a{1,100}){1,100}b"}}}, "make them smaller"),
        ({"description": "x" * 10_000_000}, "65536 is the most"),
    ],
)
async def test_a_schema_that_can_not_be_used_is_told_of_and_none_is_taken(intake, store, cluster, schema, says):
    body = cluster.put("tasks", task(FULL | {"inputSchema": schema}))
    await intake.on_task(body, deleted=False)
    assert not store.of("task")
    (shown,) = cluster.of("tasks")
    (told,) = shown["status"]["conditions"]
    assert (told["type"], told["status"], told["reason"]) == ("Accepted", "False", "InvalidSchema")
    assert says in told["message"]


async def test_a_schedule_whose_input_does_not_fit_the_task_is_not_accepted(intake, cluster):
    schema = {"type": "object", "properties": {"day": {"type": "string", "format": "date-time"}}}
    schedules = [
        {"name": "good", "cron": "@daily", "input": {"day": "$(slot.utc)"}},
        {"name": "bad", "cron": "@daily", "input": {"day": 1}},
    ]
    spec = {key: value for key, value in FULL.items() if key != "outputSchema"}
    body = cluster.put("tasks", task(spec | {"inputSchema": schema, "schedules": schedules}))
    await intake.on_task(body, deleted=False)
    (shown,) = cluster.of("tasks")
    said = {c["type"]: c for c in shown["status"]["conditions"]}
    assert said["Accepted"]["status"] == "True"
    assert said["SchedulesAccepted"]["status"] == "False"
    assert "schedule bad: $.input.day: the input does not fit Task" in said["SchedulesAccepted"]["message"]


async def test_a_run_is_an_intent_by_its_uid(intake, store, cluster):
    body = cluster.put("runs", run({"task": "t", "input": {"a": "ü"}, "tags": ["x"]}))
    await intake.on_run(body, deleted=False)
    ((taken,),) = store.of("run")
    assert taken.intent_uid == body["metadata"]["uid"]
    assert taken.input == '{"a":"ü"}'
    assert taken.origin == "kubectl"


async def test_a_run_without_input_has_null(intake, store, cluster):
    await intake.on_run(cluster.put("runs", run({"task": "t"})), deleted=False)
    assert store.of("run")[0][0].input == "null"


async def test_a_run_made_again_names_the_run_it_had(intake, store, cluster):
    body = run({"task": "t"})
    body["metadata"]["annotations"] = {"milepost.dev/run-id": str(RUN_ID)}
    await intake.on_run(cluster.put("runs", body), deleted=False)
    assert store.of("run")[0][0].adopt_run_id == RUN_ID


async def test_a_projection_is_never_taken_in(intake, store, cluster):
    await intake.on_run(cluster.put("runs", run({"task": "t", "runID": str(RUN_ID)})), deleted=False)
    assert store.told == []


async def test_a_run_that_has_its_row_is_not_taken_in_again(intake, store, cluster):
    body = cluster.put("runs", run({"task": "t"})) | {"status": {"runID": str(RUN_ID), "phase": "Running"}}
    await intake.on_run(body, deleted=False)
    assert store.told == []


@pytest.mark.parametrize(("phase", "asked"), [("Running", 1), ("Succeeded", 0), ("Cancelling", 0)])
async def test_cancel_cancels_what_is_live(intake, store, cluster, phase, asked):
    body = cluster.put("runs", run({"task": "t", "cancel": True})) | {
        "status": {"runID": str(RUN_ID), "phase": phase},
    }
    await intake.on_run(body, deleted=False)
    assert len(store.of("cancel")) == asked


async def test_only_status_is_believed_to_name_the_run_to_cancel(intake, store, cluster):
    body = cluster.put("runs", run({"task": "t", "cancel": True, "runID": str(RUN_ID)}))
    await intake.on_run(body, deleted=False)
    assert store.told == []


async def test_a_run_born_cancelled_is_cancelled(intake, store, cluster):
    await intake.on_run(cluster.put("runs", run({"task": "t", "cancel": True})), deleted=False)
    assert store.of("cancel") == [(RUN_ID,)]


async def test_a_deleted_run_is_forgotten_by_its_uid(intake, store, cluster):
    body = cluster.put("runs", run({"task": "t"}))
    await intake.on_run(body, deleted=True)
    assert store.of("forget") == [(body["metadata"]["uid"],)]


@pytest.mark.parametrize(
    ("spec", "created", "reason"),
    [
        ({"input": "x" * 2000}, None, "InputTooLarge"),
        ({"input": "\x00"}, None, "InvalidInput"),
        ({"idempotencyKey": "k"}, Created(RUN_ID, "first", RunState.RUNNING, duplicate=True), "Duplicate"),
        ({"idempotencyKey": "k"}, ConflictError("idempotency-mismatch", "another input"), "IdempotencyMismatch"),
    ],
)
async def test_a_run_that_can_not_be_taken_says_why(intake, store, cluster, spec, created, reason):  # noqa: PLR0917
    store.created = created or store.created
    body = cluster.put("runs", run({"task": "t", **spec}))
    await intake.on_run(body, deleted=False)
    assert conditions(cluster, "runs") == {"Accepted": ("False", reason)}
    (shown,) = cluster.of("runs")
    told = len(store.told)
    await intake.on_run(shown, deleted=False)
    assert len(store.told) == told


async def test_all_options_of_a_run_object_are_taken(intake, store, cluster):
    spec = {
        "task": "t",
        "idempotencyKey": "k",
        "idempotencyScope": "active",
        "delaySeconds": 5,
        "ttlSeconds": 60,
        "deadlineSeconds": 600,
        "priority": -7,
        "concurrencyKey": "acme",
        "cost": 3,
        "throttle": {"key": "t", "limit": 5, "periodSeconds": 60},
    }
    await intake.on_run(cluster.put("runs", run(spec)), deleted=False)
    ((taken,),) = store.of("run")
    assert (taken.idempotency_scope, taken.delay_seconds, taken.ttl_seconds, taken.deadline_seconds) == (
        "active",
        5,
        60,
        600,
    )
    assert (taken.priority, taken.concurrency_key, taken.cost) == (-7, "acme", 3)
    assert taken.throttle == Throttle("t", 5, 60)
    debounced = {"task": "t", "debounce": {"key": "d", "seconds": 5, "payload": "first"}}
    await intake.on_run(cluster.put("runs", run(debounced)), deleted=False)
    assert store.of("run")[1][0].debounce == Debounce("d", 5, 50, latest=False)
    single = {"task": "t", "singleton": {"key": "s", "onConflict": "reject"}}
    await intake.on_run(cluster.put("runs", run(single)), deleted=False)
    assert store.of("run")[2][0].singleton == Singleton("s", reject=True)


@pytest.mark.parametrize(
    "spec",
    [
        {"idempotencyScope": "active"},
        {"idempotencyKey": "k", "singleton": {"key": "s"}},
        {"debounce": {"key": "d", "seconds": 5, "maxSeconds": 2}},
        {"delaySeconds": 5, "deadlineSeconds": 5},
    ],
)
async def test_options_that_contradict_each_other_are_told(intake, store, cluster, spec):
    await intake.on_run(cluster.put("runs", run({"task": "t", **spec})), deleted=False)
    assert conditions(cluster, "runs") == {"Accepted": ("False", "InvalidInput")}
    assert store.of("run") == []


@pytest.mark.parametrize(
    ("error", "reason"), [(QueueFullError("full", 2.0), "QueueFull"), (ThrottledError("slow", 9.0), "Throttled")]
)
async def test_a_run_without_room_says_so_and_is_taken_later(intake, store, cluster, error, reason):
    store.created = error
    body = cluster.put("runs", run({"task": "t"}))
    await intake.on_run(body, deleted=False)
    assert conditions(cluster, "runs") == {"Accepted": ("False", reason)}
    (shown,) = cluster.of("runs")
    patched = len(cluster.calls)
    await intake.on_run(shown, deleted=False)  # what its own condition brings in
    await intake.again()
    assert len(cluster.calls) == patched
    assert len(store.of("run")) == 3
    store.created = Created(RUN_ID, "r", RunState.QUEUED, duplicate=False)
    await intake.again()
    assert len(store.of("run")) == 4
    await intake.again()
    assert len(store.of("run")) == 4


async def test_a_run_without_room_that_is_deleted_is_never_taken(intake, store, cluster):
    store.created = QueueFullError("full", 2.0)
    body = cluster.put("runs", run({"task": "t"}))
    await intake.on_run(body, deleted=False)
    await intake.on_run(body, deleted=True)
    await intake.again()
    assert len(store.of("run")) == 1


# the backlog


def made(uid, name="a", n=0):
    return {"metadata": {"name": name, "namespace": "team", "uid": uid}, "n": n}


async def no_sleep(_):
    return None


KEY = ("tasks", "team", "a")


async def test_the_newest_state_replaces_an_older_one_but_no_other_object():
    seen = []

    async def take(body, *, deleted):
        seen.append((body["metadata"]["uid"], body["n"], deleted))

    backlog = Backlog({"tasks": take}, no_sleep)
    backlog.put("tasks", made("1", n=1), deleted=False)
    backlog.put("tasks", made("1", n=2), deleted=True)
    backlog.put("tasks", made("2", n=3), deleted=False)
    await backlog.drain(KEY)
    assert seen == [("1", 2, True), ("2", 3, False)]
    assert backlog.depth() == 0


async def test_what_is_unavailable_is_waited_out():
    answers = [UnavailableError("down")] * 30
    seen = []

    async def take(body, *, deleted):
        if answers:
            raise answers.pop()
        seen.append((body, deleted))

    backlog = Backlog({"tasks": take}, no_sleep)
    backlog.put("tasks", made("1"), deleted=False)
    await backlog.drain(KEY)
    assert len(seen) == 1


async def test_poison_is_given_up_and_the_next_is_taken():
    seen = []

    async def take(body, *, deleted):
        if body["metadata"]["uid"] == "1":
            raise RuntimeError("poison")
        seen.append((body, deleted))

    backlog = Backlog({"tasks": take}, no_sleep)
    backlog.put("tasks", made("1"), deleted=False)
    backlog.put("tasks", made("2"), deleted=False)
    await backlog.drain(KEY)
    assert len(seen) == 1


async def test_a_restart_is_taken_in_though_the_spec_stays_as_it_is(intake, store, cluster):
    body = cluster.put("tasks", task(FULL))
    await intake.on_task(body, deleted=False)
    for word in ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"):
        body["metadata"]["annotations"] = {"milepost.dev/restartedAt": word, "other": "x"}
        await intake.on_task(body, deleted=False)
    assert [taken.restart for (taken,) in store.of("task")] == [None, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]
    assert [one["metadata"]["name"] for one in intake.tasks()] == [body["metadata"]["name"]]
