"""The true sidecar, spoken to as `curl --unix-socket` would."""

import asyncio
import json
import signal

import pytest

from milepost.net.client import Client
from tests.unit.sdk.conftest import Pod, curl, until


@pytest.fixture
async def sidecar(pod: Pod) -> Client:
    await pod.start_sidecar()
    client = await pod.connected()
    assert (await curl(client, "GET", "/v1/attempt")).status == 200
    return client


async def test_the_attempt_has_no_token_and_its_input_is_json(pod: Pod):
    pod.api.start["input"] = '{"z": 1, "a": [2]}'
    await pod.start_sidecar()
    attempt = (await curl(await pod.connected(), "GET", "/v1/attempt")).json()
    assert attempt["input"] == {"z": 1, "a": [2]}
    assert "token" not in attempt
    assert attempt["run_id"] == "run-1"


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "of an older api"])
async def test_records_are_written_and_read(pod: Pod, sidecar: Client, plain: bool):
    pod.api.plain = plain
    wrote = await curl(
        sidecar, "PUT", "/v1/checkpoints/a%2Fb%20%C3%A9", b'{"z":1,\n "a":2}', [("Milepost-Types", "{}")]
    )
    assert wrote.json() == {"seq": 1}
    assert (await curl(sidecar, "PUT", "/v1/checkpoints/a%2Fb%20%C3%A9", b"2")).json() == {"seq": 2}
    read = await curl(sidecar, "GET", "/v1/checkpoints/a/b%20%C3%A9")
    assert (read.body, read.headers["milepost-seq"]) == (b"2", "2")
    assert (await curl(sidecar, "PUT", "/v1/steps/s", b"[1]")).json() == {"seq": 3}
    lines = (await curl(sidecar, "GET", "/v1/records?after=0")).body.splitlines()
    assert [json.loads(line)["value"] for line in lines] == [2, [1]]
    assert pod.api.records[0].types == "{}"
    assert len((await curl(sidecar, "GET", "/v1/records?after=2")).body.splitlines()) == 1
    assert pod.api.records[0].key == "a/b é"
    assert (await curl(sidecar, "GET", "/v1/steps/none")).status == 404


async def test_first_write_wins_and_a_retransmission_is_no_conflict(sidecar: Client):
    again = [("Milepost-Write-Id", "w1")]
    assert (await curl(sidecar, "PUT", "/v1/steps/s", b"1", again)).json() == {"seq": 1}
    assert (await curl(sidecar, "PUT", "/v1/steps/s", b"1", again)).json() == {"seq": 1}
    other = await curl(sidecar, "PUT", "/v1/steps/s", b"2")
    assert (other.status, other.json()["code"]) == (409, "step-exists")
    both = await asyncio.gather(*(curl(sidecar, "PUT", f"/v1/steps/{k}", b"3") for k in "sxyz"))
    assert sorted(reply.status for reply in both) == [200, 200, 200, 409]


async def test_settling_is_final_and_repeatable(pod: Pod, sidecar: Client):
    assert (await curl(sidecar, "PUT", "/v1/result", b'{"n":1}')).json() == {"state": "succeeded"}
    assert (await curl(sidecar, "PUT", "/v1/result", b'{"n":1}')).json() == {"state": "succeeded"}
    other = await curl(sidecar, "PUT", "/v1/failure", b'{"message":"no"}')
    assert (other.status, other.json()["code"], other.json()["state"]) == (409, "settled", "succeeded")
    for path in ("/v1/steps/s", "/v1/checkpoints/c", "/v1/progress"):
        reply = await curl(sidecar, "PUT", path, b"{}")
        assert (reply.status, reply.json()["code"]) == (409, "settled")
    beats = len(pod.api.beats)
    assert (await curl(sidecar, "GET", "/v1/healthz")).json() == {"phase": "settled"}
    assert len(pod.api.settlements) == 1
    assert len(pod.api.beats) <= beats + 1


async def test_a_refused_result_leaves_the_attempt_open(pod: Pod, sidecar: Client):
    pod.api.faults["/settle"].append(413)
    assert (await curl(sidecar, "PUT", "/v1/result", b"1")).status == 413
    body = (
        b'{"type":"TooLarge","message":"no","kind":"fatal","retryable":false,"evidence":{"oom_kills":1,"signal":null}}'
    )
    assert (await curl(sidecar, "PUT", "/v1/failure", body)).json() == {"state": "backoff"}
    assert pod.api.settlements[0]["failure"]["retryable"] is False
    assert pod.api.settlements[0]["evidence"]["oom_kills"] == 1


MISUSE = [
    ("GET", "/", b"", 404, "no-such-route", None),
    ("GET", "/v1/nothing", b"", 404, "no-such-route", None),
    ("POST", "/v1/result", b"1", 405, "method-not-allowed", None),
    ("DELETE", "/v1/steps/a", b"", 405, "method-not-allowed", None),
    ("PUT", "/v1/attempt", b"", 405, "method-not-allowed", None),
    ("PUT", "/v1/steps/", b"1", 400, "bad-key", None),
    ("PUT", "/v1/steps/" + "x" * 513, b"1", 400, "bad-key", None),
    ("PUT", "/v1/steps/%ff", b"1", 400, "bad-key", None),
    ("PUT", "/v1/steps/%00", b"1", 400, "bad-key", None),
    ("GET", "/v1/records?after=x", b"", 400, "bad-after", None),
    ("PUT", "/v1/steps/a", b"", 422, "not-json", "$"),
    ("PUT", "/v1/steps/a", b"{", 422, "not-json", "$"),
    ("PUT", "/v1/steps/a", b"\xff", 422, "not-json", "$"),
    ("PUT", "/v1/steps/a", b"NaN", 422, "not-finite", "$"),
    ("PUT", "/v1/steps/a", b'{"a":[1,1e999]}', 422, "not-finite", "$.a[1]"),
    ("PUT", "/v1/steps/a", b'{"a b":9223372036854775808}', 422, "int-too-large", '$["a b"]'),
    ("PUT", "/v1/steps/a", b'["\\u0000"]', 422, "nul-character", "$[0]"),
    ("PUT", "/v1/steps/a", b'["\\ud800"]', 422, "lone-surrogate", "$[0]"),
    ("PUT", "/v1/steps/a", b"[" * 5000 + b"]" * 5000, 422, "too-deep", "$"),
    ("PUT", "/v1/steps/a", b'{"s":1,"big":"' + b"x" * 1100000 + b'"}', 413, "too-large", "$.big"),
    ("PUT", "/v1/steps/a", b'"' + b"x" * 9000000 + b'"', 413, "body-too-large", None),
    ("PUT", "/v1/progress", b"[]", 422, "not-an-object", "$"),
    ("PUT", "/v1/progress", b'{"fraction":2}', 422, "bad-member", "$.fraction"),
    ("PUT", "/v1/progress", b'{"fraction":true}', 422, "bad-member", "$.fraction"),
    ("PUT", "/v1/progress", b'{"part":1}', 422, "unknown-member", "$.part"),
    ("PUT", "/v1/failure", b'{"kind":"odd"}', 422, "bad-member", "$.kind"),
    ("PUT", "/v1/failure", b'{"message":1}', 422, "bad-member", "$.message"),
    ("PUT", "/v1/failure", b'{"evidence":{"x":1}}', 422, "bad-evidence", None),
    ("PUT", "/v1/result", b"", 422, "not-json", "$"),
]


async def test_misuse_is_answered_and_hurts_nobody(pod: Pod, sidecar: Client):
    for method, path, body, status, code, place in MISUSE:
        reply = await curl(sidecar, method, path, body)
        problem = reply.json()
        assert (reply.status, problem["code"], problem.get("path")) == (status, code, place), (method, path, problem)
        assert reply.headers["content-type"] == "application/problem+json"
        assert problem["detail"]
    assert (await curl(sidecar, "PUT", "/v1/steps/a", b"1", [("Milepost-Write-Id", "x" * 129)])).status == 400
    assert pod.api.records == []
    assert (await curl(sidecar, "PUT", "/v1/result", b"1")).json() == {"state": "succeeded"}
    assert pod.sidecar.returncode is None


async def test_garbage_is_answered_with_400_and_closed(pod: Pod, sidecar: Client):
    for garbage in (b"hello\r\n\r\n", b"\x16\x03\x01" * 50, b"GET / HTTP/1.1\r\n\r\n", b"GET " + b"x" * 100000):
        reader, writer = await asyncio.open_unix_connection(pod.socket)
        writer.write(garbage)
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert answer.split(b" ")[1].startswith(b"4"), answer
        writer.close()
    reader, writer = await asyncio.open_unix_connection(pod.socket)
    writer.write(b"PUT /v1/steps/cut HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n12")
    writer.close()
    assert (await curl(sidecar, "PUT", "/v1/steps/a", b"1")).status == 200
    assert pod.api.values() == {"a": 1}


async def test_nothing_can_be_written_before_the_start_or_after_a_stop(pod: Pod):
    pod.api.down = True
    await pod.start_sidecar()
    client = await pod.connected()
    reply = await curl(client, "PUT", "/v1/steps/a", b"1")
    assert (reply.status, reply.json()["code"]) == (503, "not-started")
    pod.api.down = False
    assert (await curl(client, "GET", "/v1/attempt")).status == 200
    pod.api.next_attempt()
    control = (await curl(client, "GET", "/v1/control")).json()
    assert control["directive"] == "stop"
    reply = await curl(client, "PUT", "/v1/steps/a", b"1")
    assert (reply.status, reply.json()["code"]) == (409, "fenced")


async def test_cancel_then_stop_reach_control_once_each(pod: Pod, sidecar: Client):
    pod.api.cancel = True
    assert (await curl(sidecar, "GET", "/v1/control")).json()["directive"] == "cancel"
    assert (await curl(sidecar, "PUT", "/v1/steps/a", b"1")).status == 200
    later = asyncio.ensure_future(curl(sidecar, "GET", "/v1/control?seen=cancel"))
    await pod.api.wait_until(lambda: len(pod.api.beats) > 3)
    assert not later.done()
    pod.api.closed = True
    assert (await later).json()["directive"] == "stop"


async def test_progress_goes_with_the_next_heartbeat(pod: Pod, sidecar: Client):
    body = '{"fraction":0.4,"message":"indexing é"}'.encode()
    assert (await curl(sidecar, "PUT", "/v1/progress", body)).status == 204
    await pod.api.wait_until(lambda: any(b["progress_message"] == "indexing é" for b in pod.api.beats))
    count = len(pod.api.beats)
    await pod.api.wait_until(lambda: len(pod.api.beats) > count + 2)
    assert pod.api.beats[-1]["progress"] is None


async def test_an_expired_session_is_opened_anew_and_a_failed_renewal_keeps_the_old(pod: Pod, sidecar: Client):
    pod.api.valid.clear()
    assert (await curl(sidecar, "PUT", "/v1/steps/a", b"1")).status == 200
    assert pod.api.sessions == 2


async def test_renewal_survives_an_outage_of_kubernetes(pod: Pod):
    pod.api.session_seconds = 0
    await pod.start_sidecar()
    client = await pod.connected()
    assert (await curl(client, "GET", "/v1/attempt")).status == 200
    pod.api.kubernetes_down = True
    count = pod.api.sessions
    await pod.api.wait_until(lambda: pod.api.sessions > count)  # by the session's own token
    pod.api.faults["/session"].extend([503] * 1000)
    for n in range(3):
        assert (await curl(client, "PUT", f"/v1/steps/{n}", b"1")).status == 200
    await until(lambda: '"renewal-failed"' in pod.log.read_text())


async def test_a_partition_stops_the_task_only_if_asked(pod: Pod):
    pod.api.start.update(on_partition="stop", lease_seconds=0.3)
    await pod.start_sidecar()
    client = await pod.connected()
    assert (await curl(client, "GET", "/v1/attempt")).status == 200
    pod.api.down = True
    control = (await curl(client, "GET", "/v1/control")).json()
    assert (control["directive"], "onPartition" in control["reason"]) == ("stop", True)


async def test_the_spool_is_bounded(pod: Pod, sidecar: Client):
    pod.api.down = True
    value = b'"' + b"x" * 1000000 + b'"'
    writes = [asyncio.ensure_future(curl(sidecar, "PUT", f"/v1/steps/{n}", value)) for n in range(12)]
    async with asyncio.timeout(10):
        await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED)
    refused = next(w for w in writes if w.done()).result()
    assert (refused.status, refused.json()["code"], refused.headers["retry-after"]) == (503, "spool-full", "1")
    pod.api.down = False
    statuses = [reply.status for reply in await asyncio.gather(*writes)]
    assert statuses.count(200) >= 7
    assert len(pod.api.records) == statuses.count(200)


async def test_sigterm_finishes_a_settling_and_exits_0(pod: Pod, sidecar: Client):
    pod.api.faults["/settle"].extend(["drop-before", "drop-before"])
    settling = asyncio.ensure_future(curl(sidecar, "PUT", "/v1/result", b"1"))
    await pod.api.wait_until(lambda: "/settle" in pod.api.seen)
    pod.sidecar.send_signal(signal.SIGTERM)
    assert (await settling).json() == {"state": "succeeded"}
    async with asyncio.timeout(3):
        assert await pod.sidecar.wait() == 0


async def test_bad_settings_are_named(pod: Pod):
    pod.env["MILEPOST_API_URL"] = "ftp://x"
    process = await pod.start_sidecar()
    assert await process.wait() == 64
    assert "MILEPOST_API_URL must be https://" in pod.log.read_text()
