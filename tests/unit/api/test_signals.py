"""Signals over HTTP, and what a settled suspension must be like."""

from typing import Any

import pytest

from milepost_operator.domain.runs import NewRun
from tests.unit.api.conftest import Bench


async def test_a_signal_is_kept_for_its_run(bench: Bench, team: dict[str, str]) -> None:
    run = await bench.store.create_run(NewRun("team", "index", "{}"))
    body = {"name": "approve", "payload": {"by": "Zoë", "at": 1.5}, "id": "s1"}
    first = await bench.client.post(f"/v1/runs/{run.name}/signals", json=body, headers=team)
    again = await bench.client.post(f"/v1/runs/{run.run_id}/signals", json=body, headers=team)
    assert (first.status_code, first.json(), again.json()) == (202, {"seq": 1}, {"seq": 1})
    await bench.client.post(f"/v1/runs/{run.name}/signals", json={"name": "approve"}, headers=team)
    assert bench.store.runs[run.run_id].signals == [
        ("approve", '{"by":"Zoë","at":1.5}', "s1"),
        ("approve", "null", None),
    ]
    assert len(bench.pokes) >= 3
    await bench.store.cancel_run(run.run_id, "test")
    late = await bench.client.post(f"/v1/runs/{run.name}/signals", json={"name": "approve"}, headers=team)
    assert (late.status_code, late.json()["code"]) == (409, "run-ended")


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b"[]", 422, "$"),
        (b"{", 422, "$"),
        (b"{}", 422, "$.name"),
        (b'{"name": ""}', 422, "$.name"),
        (b'{"name": "x", "to": 1}', 422, "$.to"),
        (b'{"name": "x", "payload": "\\u0000"}', 422, "$.payload"),
        (b'{"name": "x", "payload": [NaN]}', 422, "$"),
        (b'{"name": "x", "payload": {"a": ["' + b"y" * 65_536 + b'"]}}', 413, "$.payload.a[0]"),
        (b'{"name": "x", "payload": "' + b"y" * 200_000 + b'"}', 413, None),
    ],
)
async def test_a_wrong_signal_is_refused_with_its_place(
    bench: Bench, team: dict[str, str], body: bytes, status: int, path: str | None
) -> None:
    run = await bench.store.create_run(NewRun("team", "index", "{}"))
    answer = await bench.client.post(f"/v1/runs/{run.name}/signals", content=body, headers=team)
    assert (answer.status_code, answer.json().get("path")) == (status, path)
    assert bench.store.runs[run.run_id].signals == []


async def test_only_runs_of_the_credential_s_namespace_take_signals(bench: Bench, team: dict[str, str]) -> None:
    run = await bench.store.create_run(NewRun("other", "index", "{}"))
    for target in (str(run.run_id), "nope"):
        answer = await bench.client.post(f"/v1/runs/{target}/signals", json={"name": "x"}, headers=team)
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


WAIT = {"key": "w", "kind": "timer", "seconds": 5}


@pytest.mark.parametrize(
    ("waits", "path"),
    [
        ([], "$.outcome"),
        ([WAIT, WAIT], "$.waits[1].key"),
        ([WAIT | {"key": ""}], "$.waits[0].key"),
        ([WAIT | {"key": "ä" * 300}], "$.waits[0].key"),
        ([WAIT | {"kind": "nap"}], "$.waits[0].kind"),
        ([WAIT | {"seconds": None}], "$.waits[0].seconds"),
        ([WAIT | {"seconds": -1}], "$.waits[0].seconds"),
        ([WAIT | {"seconds": 1e300}], "$.waits[0].seconds"),
        ([WAIT | {"until": "2030-01-01T00:00:00Z"}], "$.waits[0].until"),
        ([{"key": "w", "kind": "timer", "until": "2030-01-01"}], "$.waits[0].until"),
        ([{"key": "w", "kind": "timer", "until": "tomorrow"}], "$.waits[0].until"),
        ([{"key": "w", "kind": "signal"}], "$.waits[0].name"),
        ([{"key": "w", "kind": "signal", "name": "a\u0000"}], "$.waits[0].name"),
        ([{"key": "w", "kind": "child", "name": "r1"}], "$.waits[0].name"),
        ([WAIT | {"key": str(n)} for n in range(1001)], "$.waits"),
    ],
)
async def test_waits_that_nothing_could_end_are_refused_with_their_place(bench: Bench, waits: Any, path: str) -> None:
    sidecar = await bench.pod()
    answer = await sidecar.post("settle", {"fence": sidecar.fence, "outcome": "suspended", "waits": waits})
    assert (answer.status_code, answer.json()["path"]) == (422, path)
    assert bench.store.settles == []


async def test_a_suspension_is_settled_and_nothing_goes_with_it(bench: Bench) -> None:
    sidecar = await bench.pod()
    for extra in ({"result": "1"}, {"failure": {"kind": "user", "type": "E", "message": ""}}):
        body = {"fence": sidecar.fence, "outcome": "suspended", "waits": [WAIT]} | extra
        assert (await sidecar.post("settle", body)).json()["path"] == "$.outcome"
    unasked = {"fence": sidecar.fence, "outcome": "succeeded", "result": "1", "waits": [WAIT]}
    assert (await sidecar.post("settle", unasked)).json()["path"] == "$.outcome"
    answer = await sidecar.post("settle", {"fence": sidecar.fence, "outcome": "suspended", "waits": [WAIT]})
    assert answer.json() == {"state": "suspended"}
    assert bench.sample("milepost_settled_total", state="suspended", kind="suspended") in {0.0, 1.0}


async def test_only_a_step_can_have_failed(bench: Bench) -> None:
    sidecar = await bench.pod()
    assert (await sidecar.write("a", "{}", failed=True)).status_code == 200
    answer = await sidecar.write("c", "{}", kind="checkpoint", failed=True)
    assert (answer.status_code, answer.json()["path"]) == (422, "$.records[0].failed")
