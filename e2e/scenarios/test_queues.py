"""Queues under everything at once: kubectl, HTTP and the clock feed them while the control plane dies."""

import time

import pytest

from e2e.harness.faults import kill_component
from e2e.harness.kubectl import Object, as_object, dig
from e2e.harness.lab import API_VERSION, Lab, wait_all
from e2e.harness.programs import ONE_SPAN
from e2e.harness.release import Release
from e2e.harness.report import most_alive
from e2e.harness.wait import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.alone, pytest.mark.timeout(300)]

LIMITS = {"narrow": 2, "wide": 4, "shut": 4}
BY_KUBECTL, BY_HTTP, SHUT = 8, 12, 3
LONG = 2.0  # seconds in user code: enough for a queue to be full


def queue(name: str, **spec: object) -> Object:
    return {"apiVersion": API_VERSION, "kind": "Queue", "metadata": {"name": name}, "spec": spec}


def ask(release: Release, method: str, path: str, body: object = None, expected: int = 200) -> dict[str, object]:
    """Call the API until it answers as expected: it is being killed meanwhile."""

    def attempt() -> dict[str, object] | None:
        try:
            answer = release.api.call(method, path, body)
        except OSError:
            return None
        assert answer.status in {expected, 404, 503}, (answer.status, answer.body)  # 404: not mirrored yet
        return as_object(answer.json()) if answer.status == expected else None

    return eventually(f"{method} {path}", attempt, 60, diagnose=release.diagnose)


def test_three_queues_fed_from_everywhere(lab: Lab, release: Release) -> None:
    """Limits hold, the paused queue starts nothing, each slot of the clock fires once, and all that was taken ends."""
    space = f"namespace={lab.namespace}"
    small = {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}
    for name, limit in LIMITS.items():
        lab.kubectl.apply(queue(name, concurrency=limit), namespace=lab.namespace)
        clock = [{"name": "often", "cron": "*/10 * * * * *", "input": {"seconds": 0.2}}] if name == "wide" else None
        lab.task(f"span-{name}", ONE_SPAN, queue=name, resources=small, **({"schedules": clock} if clock else {}))
    paused = ask(release, "POST", f"/v1/queues/shut/pause?{space}", {"reason": "maintenance"})
    assert as_object(paused["pause"])["reason"] == "maintenance"

    for number in range(BY_KUBECTL):
        lab.run("span-narrow", f"narrow-{number}", {"seconds": LONG})
    items = [
        {"task": "span-wide", "input": {"seconds": LONG}, "idempotencyKey": f"wide-{number}", "name": f"wide-{number}"}
        for number in range(BY_HTTP)
    ]
    batch = {"items": [{**item, "namespace": lab.namespace} for item in items]}
    ask(release, "POST", "/v1/runs/batch", batch)
    for number in range(SHUT):
        lab.run("span-shut", f"shut-{number}", {"seconds": 0.1})

    begun = time.monotonic()
    kill_component(release, "api")
    kill_component(release, "operator")
    again = ask(release, "POST", "/v1/runs/batch", batch)  # as a client does that lost the answer
    assert len({str(dig(as_object(item), "run", "name")) for item in again["items"]}) == BY_HTTP  # type: ignore[attr-defined]

    names = [f"narrow-{n}" for n in range(BY_KUBECTL)] + [f"wide-{n}" for n in range(BY_HTTP)]
    ends = wait_all(lab.runs(*names), lambda state: state == "succeeded", 180)
    assert set(ends.values()) == {"succeeded"}

    shut = lab.runs(*(f"shut-{number}" for number in range(SHUT)))
    assert {run.row()["state"] for run in shut} == {"queued"}, "a paused queue starts nothing"
    why = ask(release, "GET", f"/v1/runs/{shut[0].name}/why?{space}")
    assert "paused" in str(why).lower(), why
    assert "maintenance" in str(why), why
    shown = eventually(
        "a paused queue in kubectl",
        lambda: "maintenance" in lab.kubectl.attempt("get", "queue", "shut", "-n", lab.namespace, "-o", "yaml"),
        60,
        diagnose=lab.diagnose,
    )
    assert shown
    ask(release, "POST", f"/v1/queues/shut/resume?{space}")
    wait_all(shut, lambda state: state == "succeeded", 60)

    of_queue = {str(row["run_id"]): str(row["queue"]) for row in lab.sql.rows(in_namespace(lab, "run_id, queue"))}
    for name, limit in LIMITS.items():
        events = [event for event in lab.counter.events() if of_queue.get(event.run) == name]
        assert most_alive(events) <= limit, f"queue {name} went over its limit"
    slots = lab.sql.rows(in_namespace(lab, "slot, state", "slot is not null order by slot"))
    assert len({row["slot"] for row in slots}) == len(slots)
    assert len(slots) >= (time.monotonic() - begun) / 10 - 2, f"slots are missing: {slots}"


def in_namespace(lab: Lab, columns: str, more: str = "true") -> str:
    """Make a query of this scenario's runs."""
    return f"select {columns} from runs where namespace = '{lab.namespace}' and {more}"
