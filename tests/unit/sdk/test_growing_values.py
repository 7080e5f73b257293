"""The true sidecar sends what is new of a value that grows, to an api that takes it."""

import json

import pytest

from milepost.net.client import Client
from tests.unit.sdk.conftest import Pod, curl


def history(turns: int) -> bytes:
    return json.dumps([{"role": "user", "content": f"turn {n}: è " * 9} for n in range(turns)]).encode()


async def started(pod: Pod, **start: object) -> Client:
    pod.api.start |= {"deltas": True} | start
    await pod.start_sidecar()
    client = await pod.connected()
    assert (await curl(client, "GET", "/v1/attempt")).status == 200
    return client


async def test_the_versions_of_a_checkpoint_travel_as_deltas(pod: Pod):
    client = await started(pod)
    for n in range(5, 25):
        assert (await curl(client, "PUT", "/v1/checkpoints/h", history(n))).json() == {"seq": n - 4}
    assert [r.value.encode() for r in pod.api.records] == [history(n) for n in range(5, 25)]
    assert (len(pod.api.deltas), pod.api.records[-1].depth) == (19, 19)
    assert max(map(len, pod.api.deltas)) < 250
    lines = (await curl(client, "GET", "/v1/records?after=0")).body.splitlines()
    assert [(json.loads(line)["seq"], json.loads(line)["value"]) for line in lines] == [(20, json.loads(history(24)))]


async def test_an_api_that_knows_no_deltas_gets_values(pod: Pod):
    client = await started(pod, deltas=False)
    for n in (5, 6, 7):
        await curl(client, "PUT", "/v1/checkpoints/h", history(n))
    assert (pod.api.deltas, [r.value.encode() for r in pod.api.records]) == ([], [history(n) for n in (5, 6, 7)])


async def test_a_delta_that_is_refused_goes_in_full_at_once(pod: Pod):
    client = await started(pod)
    await curl(client, "PUT", "/v1/checkpoints/h", history(5))
    pod.api.refuses_deltas = True
    for n in (6, 7):
        assert (await curl(client, "PUT", "/v1/checkpoints/h", history(n))).json() == {"seq": n - 4}
    pod.api.refuses_deltas = False
    await curl(client, "PUT", "/v1/checkpoints/h", history(8))
    assert [(r.value.encode(), r.depth) for r in pod.api.records] == [
        (history(5), 0), (history(6), 0), (history(7), 0), (history(8), 1),
    ]  # fmt: skip


async def test_an_answer_that_was_lost_costs_one_full_copy_at_most(pod: Pod):
    client = await started(pod)
    await curl(client, "PUT", "/v1/checkpoints/h", history(5))
    pod.api.faults["/records"].append("drop-after")
    for n in (6, 7, 8):
        await curl(client, "PUT", "/v1/checkpoints/h", history(n))
    assert [r.value.encode() for r in pod.api.records] == [history(n) for n in (5, 6, 7, 8)]


async def test_a_write_id_that_is_used_again_for_another_value_spoils_nothing(pod: Pod):
    client = await started(pod)
    again = [("Milepost-Write-Id", "w")]
    await curl(client, "PUT", "/v1/checkpoints/h", history(5), again)
    await curl(client, "PUT", "/v1/checkpoints/h", history(6))
    assert (await curl(client, "PUT", "/v1/checkpoints/h", history(7), again)).json() == {"seq": 1}
    await curl(client, "PUT", "/v1/checkpoints/h", history(8))
    assert [r.value.encode() for r in pod.api.records] == [history(5), history(6), history(8)]


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "of an older api"])
async def test_the_next_attempt_goes_on_from_what_it_read(pod: Pod, plain: bool):
    pod.api.plain = plain
    first = await started(pod)
    await curl(first, "PUT", "/v1/checkpoints/h", history(5))
    await curl(first, "PUT", "/v1/steps/turn", history(5))
    pod.api.next_attempt()
    pod.socket = pod.env["MILEPOST_SOCKET"] = f"{pod.socket}2"
    second = await started(pod)
    await curl(second, "GET", "/v1/records?after=0")
    await curl(second, "PUT", "/v1/checkpoints/h", history(6))
    await curl(second, "PUT", "/v1/steps/turn%232", history(6))
    assert [(r.attempt, r.depth, r.value.encode()) for r in pod.api.records[2:]] == [(2, 1, history(6))] * 2


async def test_no_delta_is_made_on_a_text_whose_line_breaks_were_read_as_spaces(pod: Pod):
    first = await started(pod)
    told = history(5).replace(b"}, ", b"},\n")
    await curl(first, "PUT", "/v1/checkpoints/h", told)
    pod.api.next_attempt()
    pod.socket = pod.env["MILEPOST_SOCKET"] = f"{pod.socket}2"
    second = await started(pod)
    (line,) = (await curl(second, "GET", "/v1/records?after=0")).body.splitlines()
    assert json.loads(line)["value"] == json.loads(told)
    for n in (6, 7):
        await curl(second, "PUT", "/v1/checkpoints/h", history(n))
    assert [(r.depth, r.value.encode()) for r in pod.api.records] == [(0, told), (0, history(6)), (1, history(7))]
