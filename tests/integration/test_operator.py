"""The whole operator against a real API server and a real Postgres; pods are played by the test."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from milepost_operator.adapters.kube.client import KubeClient, KubeNotFound
from milepost_operator.adapters.kube.config import from_kubeconfig
from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.handlers.operator import run_operator
from milepost_operator.manifests.names import POD_LABEL
from milepost_operator.settings import Settings, TaskNetworkSettings

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("crds")]
API = "milepost.dev/v1beta1"


async def until(condition: Callable[[], Awaitable[Any]], what: str, seconds: float = 15.0) -> Any:
    """Poll with a deadline; gives what the condition gave."""
    found: Any = None
    try:
        async with asyncio.timeout(seconds):
            while not (found := await condition()):  # noqa: ASYNC110 (polls with a deadline)
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {seconds} s: {what}")
    return found


@dataclass
class World:
    kube: KubeClient
    store: PostgresStore
    namespace: str

    def path(self, plural: str, name: str = "") -> str:
        groups = {
            "jobs": "/apis/batch/v1",
            "pods": "/api/v1",
            "events": "/api/v1",
            "networkpolicies": "/apis/networking.k8s.io/v1",
        }
        group = groups.get(plural, f"/apis/{API}")
        return f"{group}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    async def apply(self, kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
        body = {"apiVersion": API, "kind": kind, "metadata": {"name": name, **metadata}, "spec": spec}
        return await self.kube.create(self.path(f"{kind.lower()}s"), body)

    async def status(self, plural: str, name: str) -> dict[str, Any]:
        with suppress(KubeNotFound):
            return (await self.kube.get(self.path(plural, name))).get("status", {})
        return {}

    async def phase(self, run: str, *phases: str) -> dict[str, Any]:
        async def reached() -> dict[str, Any] | None:
            status = await self.status("runs", run)
            return status if status.get("phase") in phases else None

        return await until(reached, f"{run} in {phases}, is {await self.status('runs', run)}")

    async def job(self) -> dict[str, Any]:
        """The one Job of a pods row that was not given before."""

        async def one() -> Any:
            labels = [(job["metadata"]["labels"], job) for job in (await self.kube.list(self.path("jobs")))["items"]]
            return next((job for own, job in labels if POD_LABEL in own and "seen" not in own), None)

        job = await until(one, "a Job")
        await self.kube.patch(self.path("jobs", job["metadata"]["name"]), {"metadata": {"labels": {"seen": "1"}}})
        return job

    async def pod(self, job: dict[str, Any], state: dict[str, Any], phase: str) -> dict[str, Any]:
        """What the Job controller and a kubelet would make of the Job."""
        template = job["spec"]["template"]
        name = f"{job['metadata']['name']}-abcde"
        pod = {"metadata": {**template["metadata"], "name": name}, "spec": {**template["spec"], "nodeName": "n1"}}
        pod["spec"].setdefault("serviceAccountName", "default")
        try:
            await self.kube.create(self.path("pods"), {"apiVersion": "v1", "kind": "Pod", **pod})
        except Exception as error:
            if "AlreadyExists" not in str(error):
                raise
        task = {"name": "task", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        status = {"phase": phase, "containerStatuses": [task]}
        return await self.kube.patch(f"{self.path('pods', name)}/status", {"status": status})


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    now = "2030-01-01T00:00:00Z"
    return {"terminated": {"exitCode": code, "reason": reason, "startedAt": now, "finishedAt": now}}


@pytest.fixture
async def world(settings: Settings, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", lambda *_: None)  # Ctrl-C is for the session
    namespace = f"op-{secrets.token_hex(4)}"
    ours = settings.model_copy(
        update={
            "namespaces": namespace,
            "operator_namespace": namespace,
            "cluster": namespace,
            "runner_image": "runner:1",
            "api_url": "https://api:8443",
            "metrics_port": 0,
            "config_grace_seconds": 0.5,
            "task_network": TaskNetworkSettings(api_labels={"app": "api"}, api_server=["192.0.2.1/32"]),
        },
    )
    async with KubeClient(from_kubeconfig(kubeconfig)) as kube, PostgresStore.open(ours) as store:
        namespace_body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        await kube.create("/api/v1/namespaces", namespace_body)
        await kube.create(
            f"/api/v1/namespaces/{namespace}/serviceaccounts",
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}},
        )
        operator = asyncio.create_task(run_operator(ours))
        duties = asyncio.create_task(_duties(store))
        try:
            yield World(kube, store, namespace)
        finally:
            assert not operator.done(), operator.exception()
            operator.cancel()
            duties.cancel()
            await asyncio.gather(operator, duties, return_exceptions=True)
            await kube.delete(f"/api/v1/namespaces/{namespace}")


async def _duties(store: PostgresStore) -> None:
    """The api's part."""
    while True:
        await store.pulse()
        await store.promote(100)
        await store.admit(100)
        await asyncio.sleep(0.05)


COMMAND = {"image": "busybox:1", "command": ["true"], "retry": {"maxAttempts": 2, "minSeconds": 0, "maxSeconds": 0}}


async def test_the_network_of_a_task_is_there_before_its_pod(world: World) -> None:
    await world.apply("Task", "t", COMMAND | {"network": {"egress": "none"}})
    await world.apply("Run", "r", {"task": "t"})
    await world.job()

    async def shut() -> list[str]:
        policy = await world.kube.get(world.path("networkpolicies", "milepost-tasks-open"))
        requirements = policy["spec"]["podSelector"]["matchExpressions"]
        return [value for one in requirements for value in one.get("values", ())]

    assert await shut() == ["t"]
    base = await world.kube.get(world.path("networkpolicies", "milepost-tasks"))
    assert base["spec"]["policyTypes"] == ["Ingress", "Egress"]

    async def said() -> str:
        conditions = (await world.status("tasks", "t")).get("conditions", [])
        return next((one["message"] for one in conditions if one["type"] == "NetworkApplied"), "")

    assert "egress to nothing" in await until(said, "the condition")
    await world.kube.patch(world.path("tasks", "t"), {"spec": {"network": None}})

    async def opened() -> bool:
        return await shut() == [] and "egress to the world" in await said()

    await until(opened, "an open network")
    assert (await world.status("tasks", "t"))["version"] == 1


async def test_a_command_run_goes_from_kubectl_to_succeeded(world: World) -> None:
    await world.apply("Task", "hello", COMMAND)
    await world.apply("Run", "first", {"task": "hello", "input": {"x": 1}})
    job = await world.job()
    assert job["spec"]["template"]["spec"]["containers"][0]["command"] == ["true"]
    status = await world.phase("first", "Admitted")
    assert status["runID"]
    await world.pod(job, {"running": {"startedAt": "2030-01-01T00:00:00Z"}}, "Running")
    await world.pod(job, ended(0, "Completed"), "Succeeded")
    status = await world.phase("first", "Succeeded")
    run = await world.kube.get(world.path("runs", "first"))
    assert run["metadata"]["annotations"]["milepost.dev/run-id"] == status["runID"]
    assert {c["type"]: c["status"] for c in status["conditions"]}["Succeeded"] == "True"
    events = (await world.kube.list(world.path("events")))["items"]
    assert "RunSucceeded" in {event["reason"] for event in events}
    task = await world.status("tasks", "hello")
    assert (task["version"], task["queue"]) == (1, "default")
    assert {c["type"]: c["status"] for c in task["conditions"]} == {"Accepted": "True", "QueueFound": "True"}
    assert await until(lambda: _none_open(world), "the row closes")
    assert (await world.kube.get(world.path("jobs", job["metadata"]["name"])))["metadata"]["name"]


async def _none_open(world: World) -> bool:
    return not await world.store.open_pods()


async def test_an_oom_is_retried_and_then_final(world: World) -> None:
    await world.apply("Task", "big", COMMAND)
    await world.apply("Run", "r", {"task": "big"})
    for _ in range(2):
        await world.pod(await world.job(), ended(137, "OOMKilled"), "Failed")
    status = await world.phase("r", "Failed")
    assert status["reason"] == "OOMKilled"
    assert status["attempt"] == 2


async def test_a_deleted_job_is_an_infrastructure_loss(world: World) -> None:
    await world.apply("Task", "t", COMMAND)
    await world.apply("Run", "r", {"task": "t"})
    job = await world.job()
    await world.kube.delete(world.path("jobs", job["metadata"]["name"]), {"propagationPolicy": "Background"})
    again = await world.job()
    assert again["metadata"]["name"] != job["metadata"]["name"]
    await world.pod(again, ended(0, "Completed"), "Succeeded")
    status = await world.phase("r", "Succeeded")
    assert (status["attempt"], status["attemptsCounted"]) == (2, 0)


async def test_deleting_the_run_cancels_and_deletes_its_job(world: World) -> None:
    await world.apply("Task", "t", COMMAND)
    await world.apply("Run", "r", {"task": "t"})
    job = await world.job()
    await world.kube.delete(world.path("runs", "r"))

    async def gone() -> bool:
        try:
            await world.kube.get(world.path("jobs", job["metadata"]["name"]))
        except KubeNotFound:
            return True
        return False

    await until(gone, "the Job is deleted")
    assert await until(lambda: _none_open(world), "the row closes")


async def test_cancel_in_the_spec_cancels(world: World) -> None:
    await world.apply("Task", "t", COMMAND)
    await world.apply("Run", "r", {"task": "t"})
    await world.phase("r", "Admitted")
    await world.kube.patch(world.path("runs", "r"), {"spec": {"cancel": True}})
    await world.phase("r", "Cancelled")


async def test_a_run_waits_for_its_task_and_its_queue(world: World) -> None:
    await world.apply("Run", "r", {"task": "late"})
    status = await world.phase("r", "Held")
    assert status["reason"] == "TaskNotFound"
    await world.apply("Task", "late", COMMAND | {"queue": "slow"})

    async def held_for_queue() -> bool:
        return (await world.status("runs", "r")).get("reason") == "QueueNotFound"

    await until(held_for_queue, "held for its queue")
    await world.apply("Queue", "slow", {"concurrency": 1})
    await world.phase("r", "Admitted")

    async def found() -> bool:
        conditions = (await world.status("tasks", "late")).get("conditions", [])
        return {c["type"]: c["status"] for c in conditions}.get("QueueFound") == "True"

    await until(found, "QueueFound")

    async def counted() -> bool:
        status = await world.status("queues", "slow")
        return (status.get("limit"), status.get("running")) == (1, 1)

    await until(counted, "queue numbers")


async def test_what_can_not_be_taken_says_so(world: World) -> None:
    await world.apply("Task", "t", COMMAND)
    await world.apply("Run", "big", {"task": "t", "input": {"x": "y" * 70_000}})
    await world.apply("Run", "one", {"task": "t", "idempotencyKey": "k"})
    await world.phase("one", "Admitted")
    await world.apply("Run", "two", {"task": "t", "idempotencyKey": "k"})

    async def refused(name: str) -> str | None:
        for condition in (await world.status("runs", name)).get("conditions", []):
            if condition["type"] == "Accepted" and condition["status"] == "False":
                return str(condition["reason"])
        return None

    assert await until(lambda: refused("big"), "refusal") == "InputTooLarge"
    assert await until(lambda: refused("two"), "refusal") == "Duplicate"


async def test_a_run_of_the_api_is_shown_and_comes_back_when_deleted(world: World) -> None:
    from milepost_operator.domain.runs import NewRun  # noqa: PLC0415

    await world.apply("Task", "t", COMMAND)

    async def taken() -> bool:
        return bool((await world.status("tasks", "t")).get("version"))

    await until(taken, "the task")
    created = await world.store.create_run(NewRun(world.namespace, "t", '{"x": 1}'))
    status = await world.phase(created.name, "Admitted")
    assert status["runID"] == str(created.run_id)
    run = await world.kube.get(world.path("runs", created.name))
    assert run["spec"]["input"] == {"x": 1}
    await world.kube.delete(world.path("runs", created.name))

    async def back() -> bool:
        with suppress(KubeNotFound):
            again = await world.kube.get(world.path("runs", created.name))
            return bool(again["metadata"]["uid"] != run["metadata"]["uid"] and again.get("status"))
        return False

    await until(back, "the projection comes back")
    job = await world.job()
    await world.pod(job, ended(0, "Completed"), "Succeeded")
    await world.phase(created.name, "Succeeded")


async def test_an_image_that_can_not_be_pulled_fails_the_run_after_its_grace(world: World) -> None:
    await world.apply("Task", "t", COMMAND)
    await world.apply("Run", "r", {"task": "t"})
    job = await world.job()
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    await world.pod(job, waiting, "Pending")
    status = await world.phase("r", "Failed")
    assert status["reason"] == "ImagePullFailed"
    assert "no such image" in status["message"]


async def test_a_task_shows_when_it_runs_next_and_which_schedule_can_not(world: World) -> None:
    schedules = [{"name": "yearly", "cron": "0 0 1 1 *"}, {"name": "never", "cron": "0 0 31 2 *"}]
    await world.apply("Task", "cron", COMMAND | {"schedules": schedules})

    async def shown() -> dict[str, Any] | None:
        status = await world.status("tasks", "cron")
        return status if status.get("nextRun") else None

    status = await until(shown, "the next run in the Task's status")
    assert status["nextRun"].endswith("-01-01T00:00:00Z")
    assert [one["name"] for one in status["schedules"]] == ["yearly"]
    said = {one["type"]: one for one in status["conditions"]}
    assert (said["Accepted"]["status"], said["SchedulesAccepted"]["status"]) == ("True", "False")
    assert "no day 31 ever comes in Feb" in said["SchedulesAccepted"]["message"]
