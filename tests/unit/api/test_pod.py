import asyncio
from dataclasses import replace

import httpx2
import orjson
import pytest

from milepost.wire.pod import Record
from milepost_operator.domain.errors import UnavailableError
from milepost_operator.domain.states import RunState
from tests.unit.api.conftest import LIMIT, Bench


async def test_a_record_is_kept_to_the_byte_and_read_back(bench: Bench) -> None:
    sidecar = await bench.pod()
    value = '{"b": 1.50, "a":  [1e3, "\\u00e4ö"], "b": 2}'
    assert (await sidecar.write("one", value, types='{"$":"x"}', fingerprint="f")).json() == {"seqs": [1]}
    assert (await sidecar.write("two", "2")).json() == {"seqs": [2]}
    answer = await sidecar.get("records", after=0)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    lines = [orjson.loads(line) for line in answer.text.splitlines()]
    assert [line["seq"] for line in lines] == [1, 2]
    assert lines[0] == {
        "seq": 1,
        "kind": "step",
        "key": "one",
        "value": value,
        "types": '{"$":"x"}',
        "fingerprint": "f",
        "attempt": 1,
        "failed": False,
        "depth": 0,
        "object_bytes": 0,
    }
    assert (await sidecar.get("records", after=2)).text == ""
    assert (await sidecar.get("records/newest", kind="step", key="one")).json()["value"] == value
    missing = await sidecar.get("records/newest", kind="checkpoint", key="one")
    assert (missing.status_code, missing.json()["code"]) == (404, "not-found")


async def test_first_write_wins_and_a_retransmission_is_no_conflict(bench: Bench) -> None:
    sidecar = await bench.pod()
    await sidecar.write("k", "1", "w1")
    assert (await sidecar.write("k", "1", "w1")).json() == {"seqs": [1]}
    answer = await sidecar.write("k", "2", "w2")
    assert (answer.status_code, answer.json()["code"]) == (409, "step-exists")


async def test_a_newer_attempt_fences_the_older(bench: Bench) -> None:
    old = await bench.pod("aaaa")
    new = await bench.sidecar(bench.store.launch(old.row.run_id, "bbbb"))
    for answer in (
        await old.write("k"),
        await old.post("heartbeat", {"fence": old.fence}),
        await old.post("settle", {"fence": old.fence, "outcome": "succeeded", "result": "1"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "fenced")
    assert (await new.write("k")).status_code == 200


async def test_plain_lines_have_the_value_as_it_was_written_and_last(bench: Bench) -> None:
    sidecar = await bench.pod()
    run = bench.store.runs[sidecar.row.run_id]
    run.records += [
        Record(1, "step", 'a,"value":1', '{"b":  1.0,\r\n"a":"\\n"}', '{"t":"set"}', "1(5c)", 2, failed=True, depth=3),
        Record(2, "checkpoint", "b", '[1, "é"]', depth=3),
    ]
    answer = await sidecar.get("records", after=0, lines="plain")
    assert answer.headers["Milepost-Lines"] == "plain"
    assert answer.text == (
        '{"seq":1,"kind":"step","key":"a,\\"value\\":1","types":"{\\"t\\":\\"set\\"}","fingerprint":"1(5c)","attempt":2,'
        '"failed":true,"value":{"b":  1.0,  "a":"\\n"}}\n'
        '{"seq":2,"kind":"checkpoint","key":"b","types":null,"fingerprint":null,"attempt":0,"failed":false,"depth":3,'
        '"value":[1, "é"]}\n'
    )
    assert "Milepost-Lines" not in (await sidecar.get("records", after=0)).headers


async def test_many_records_stream_in_order(bench: Bench) -> None:
    sidecar = await bench.pod()
    run = bench.store.runs[sidecar.row.run_id]
    run.records.extend(Record(i, "step", f"k{i}", '"' + "x" * 500 + '"') for i in range(1, 1001))
    lines = (await sidecar.get("records", after=10)).text.splitlines()
    assert [orjson.loads(line)["seq"] for line in lines] == list(range(11, 1001))


async def test_an_error_before_the_first_record_is_told_and_one_after_it_breaks_the_stream(bench: Bench) -> None:
    sidecar = await bench.pod()
    run = bench.store.runs[sidecar.row.run_id]
    run.records.extend(Record(i, "step", f"k{i}", '"' + "x" * 70_000 + '"') for i in range(1, 3))
    real = bench.store.records

    async def broken(fence, after, *, newest):
        async for record in real(fence, after, newest=newest):
            yield record
            raise UnavailableError("the database went away")

    bench.store.records = broken  # type: ignore[method-assign]
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=bench.app), base_url="http://api") as strict:
        sidecar.client = strict
        with pytest.raises(UnavailableError):  # reaches the server, which breaks the connection
            await sidecar.get("records", after=0)
    sidecar.client = bench.client
    bench.store.down = True
    assert (await sidecar.get("records", after=0)).status_code == 503


@pytest.mark.parametrize(
    ("value", "code", "path"),
    [
        ('{"a": [1, NaN]}', "not-finite", "$"),
        ('{"items": [{"when": "\\u0000"}]}', "nul-character", "$.items[0].when"),
        ('{"a b": 18446744073709551616}', "int-too-large", '$["a b"]'),
        ('["\\ud800"]', "lone-surrogate", "$[0]"),
        ("[" * 102 + "]" * 102, "too-deep", "$" + "[0]" * 100),
        ("{", "not-json", "$"),
        ("", "not-json", "$"),
    ],
)
async def test_a_value_that_can_not_be_kept_is_refused_with_its_place(bench: Bench, value, code, path) -> None:
    sidecar = await bench.pod()
    answer = await sidecar.write("k", value)
    assert (answer.status_code, answer.json()["code"], answer.json()["path"]) == (422, code, path)
    settled = await sidecar.post("settle", {"fence": sidecar.fence, "outcome": "succeeded", "result": value})
    assert (settled.status_code, settled.json()["path"]) == (422, path)
    assert bench.store.runs[sidecar.row.run_id].records == []


async def test_a_record_over_the_limit_names_its_biggest_part(bench: Bench) -> None:
    sidecar = await bench.pod()
    value = orjson.dumps({"small": 1, "pages": [{"html": "ä" * LIMIT}]}).decode()
    answer = await sidecar.write("k", value)
    assert (answer.status_code, answer.json()["code"]) == (413, "record-too-large")
    assert answer.json()["path"] == "$.pages[0].html"
    assert str(LIMIT) in answer.json()["detail"]
    fits = '"' + "x" * (LIMIT - 2) + '"'
    assert (await sidecar.write("k", fits)).status_code == 200
    assert (await sidecar.write("k2", f"{fits} ")).status_code == 413
    result = await sidecar.post("settle", {"fence": sidecar.fence, "outcome": "succeeded", "result": value})
    assert (result.status_code, result.json()["code"]) == (413, "result-too-large")


async def test_a_body_over_the_limit_is_not_read(bench: Bench) -> None:
    sidecar = await bench.pod()
    read = 0

    async def endless():
        nonlocal read
        while True:
            read += 65_536
            yield b"x" * 65_536

    answer = await sidecar.client.post("/pod/v1/records", content=endless(), headers=sidecar.headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")
    assert str(LIMIT) in answer.json()["detail"]
    assert read < 1_000_000
    declared = await sidecar.client.post(
        "/pod/v1/heartbeat", content=b"x", headers={**sidecar.headers, "Content-Length": "9999999"}
    )
    assert declared.status_code == 413


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"key": ""}, "$.records[0].key"),
        ({"key": "k" * 513}, "$.records[0].key"),
        ({"key": "a\x00b"}, "$.records[0].key"),
        ({"write_id": ""}, "$.records[0].write_id"),
        ({"write_id": "w" * 129}, "$.records[0].write_id"),
        ({"kind": "other"}, "$.records[0].kind"),
        ({"value": 1}, "$.records[0].value"),
        ({"value": None}, "$.records[0].value"),
        ({"fingerprint": "f" * 257}, "$.records[0].fingerprint"),
    ],
)
async def test_a_malformed_record_is_refused_with_its_place(bench: Bench, change: dict, path: str) -> None:
    sidecar = await bench.pod()
    record = {"write_id": "w", "kind": "step", "key": "k", "value": "1"} | change
    answer = await sidecar.post("records", {"fence": sidecar.fence, "records": [record]})
    assert (answer.status_code, answer.json().get("path")) == (422, path)


@pytest.mark.parametrize(
    "change", [{"attempt": 0}, {"attempt": 2**31}, {"attempt": "1"}, {"token": -1}, {"token": 2**63}, {"run_id": "x"}]
)
async def test_a_fence_that_can_not_be_is_refused(bench: Bench, change: dict) -> None:
    sidecar = await bench.pod()
    fence = sidecar.fence | change
    answer = await sidecar.post("heartbeat", {"fence": fence})
    assert answer.status_code == 422
    assert answer.json()["path"].startswith("$.fence.")


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"fence": 1}', b"\xff"])
async def test_garbage_is_refused_everywhere(bench: Bench, body: bytes) -> None:
    sidecar = await bench.pod()
    for route in ("records", "heartbeat", "settle", "session"):
        headers = sidecar.headers
        answer = await sidecar.client.post(f"/pod/v1/{route}", content=body, headers=headers)
        assert answer.status_code == 422, (route, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"


async def test_records_of_a_request_are_bounded(bench: Bench) -> None:
    sidecar = await bench.pod()
    record = {"write_id": "w", "kind": "checkpoint", "key": "k", "value": "1"}
    for count, status in ((0, 422), (256, 200), (257, 422)):
        records = [record | {"write_id": f"w{i}"} for i in range(count)]
        answer = await sidecar.post("records", {"fence": sidecar.fence, "records": records})
        assert answer.status_code == status


async def test_a_newer_sidecars_unknown_fields_pass(bench: Bench) -> None:
    sidecar = await bench.pod()
    assert (await sidecar.write("k", "1", newer="field")).status_code == 200


async def test_odd_progress_loses_no_lease(bench: Bench) -> None:
    sidecar = await bench.pod()
    for progress in ("7.5", "-1", "NaN", "1e999", "0.5", "1", "null"):
        body = b'{"fence":%b,"progress":%b,"progress_message":"a\\u0000%b"}' % (
            orjson.dumps(sidecar.fence),
            progress.encode(),
            b"x" * 2000,
        )
        answer = await sidecar.client.post("/pod/v1/heartbeat", content=body, headers=sidecar.headers)
        assert (answer.status_code, answer.json()) == (200, {"directive": "continue", "grace_seconds": 0})
    assert [beat.progress for beat in bench.store.beats] == [1.0, 0.0, None, None, 0.5, 1, None]
    assert all("\x00" not in (beat.progress_message or "") for beat in bench.store.beats)
    assert max(len(beat.progress_message or "") for beat in bench.store.beats) < 1100


async def test_a_heartbeat_brings_the_word_to_cancel(bench: Bench) -> None:
    sidecar = await bench.pod()
    run = bench.store.runs[sidecar.row.run_id]
    run.view = replace(run.view, state=RunState.CANCELLING)
    answer = await sidecar.post("heartbeat", {"fence": sidecar.fence})
    assert answer.json() == {"directive": "cancel", "grace_seconds": 30}


async def test_a_settle_is_idempotent_and_then_nothing_more_is_written(bench: Bench) -> None:
    sidecar = await bench.pod()
    body = {"fence": sidecar.fence, "outcome": "succeeded", "result": '{"ok":true}'}
    bench.pokes.clear()
    for _ in range(2):
        assert (await sidecar.post("settle", body)).json() == {"state": "succeeded"}
    assert len(bench.store.settles) == 1
    assert bench.pokes
    late = await sidecar.write("late")
    assert (late.status_code, late.json()["code"]) == (409, "settled")
    assert bench.sample("milepost_attempts_settled_total", state="succeeded", reason="succeeded") == 2


async def test_a_failures_texts_are_cut_and_cleaned(bench: Bench) -> None:
    sidecar = await bench.pod()
    failure = {
        "kind": "user",
        "type": "ValueError",
        "message": "no\x00" + "m" * 20_000,
        "traceback": "t" * 70_000 + "the end",
        "retry_after_seconds": -3.0,
    }
    body = {"fence": sidecar.fence, "outcome": "failed", "failure": failure}
    assert (await sidecar.post("settle", body)).status_code == 200
    kept = bench.store.settles[0].failure
    assert kept is not None
    assert kept.message.startswith("no\ufffdm")
    assert len(kept.message) < 17_000
    assert kept.traceback.endswith("the end")
    assert len(kept.traceback) < 66_000
    assert kept.retry_after_seconds == 0.0


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": "failed"},
        {"outcome": "succeeded", "failure": {"kind": "user", "type": "E", "message": "m"}},
        {"outcome": "failed", "result": "1", "failure": {"kind": "user", "type": "E", "message": "m"}},
        {"outcome": "maybe"},
        {"outcome": "failed", "failure": {"kind": "other", "type": "E", "message": "m"}},
    ],
)
async def test_a_contradictory_settle_is_refused(bench: Bench, fields: dict) -> None:
    sidecar = await bench.pod()
    answer = await sidecar.post("settle", {"fence": sidecar.fence} | fields)
    assert answer.status_code == 422


async def test_while_postgres_is_away_all_is_503_with_retry_after(bench: Bench) -> None:
    sidecar = await bench.pod()
    bench.store.down = True
    for answer in (
        await sidecar.open(),
        await sidecar.post("start"),
        await sidecar.write("k"),
        await sidecar.get("records"),
        await sidecar.post("heartbeat", {"fence": sidecar.fence}),
        await sidecar.post("settle", {"fence": sidecar.fence, "outcome": "succeeded", "result": "1"}),
    ):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["code"] == "unavailable"


async def test_a_closed_pod_is_told_to_end(bench: Bench) -> None:
    sidecar = await bench.pod()
    sidecar.row.closed = True
    assert (await sidecar.open()).status_code == 410
    assert (await sidecar.post("start")).json()["code"] == "gone"


async def test_many_sidecars_share_commits_and_each_is_answered_after_its_own(bench: Bench) -> None:
    sidecars = [await bench.pod(f"p{i:03}") for i in range(40)]
    bench.store.hold = asyncio.Event()
    before = bench.store.commits
    tasks = [asyncio.create_task(s.write("k")) for s in sidecars]
    for _ in range(500):  # every request reaches the batcher long before
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    bench.store.hold.set()
    answers = await asyncio.gather(*tasks)
    assert all(answer.json() == {"seqs": [1]} for answer in answers)
    assert bench.store.commits - before <= 3
    assert bench.sample("milepost_records_committed_total", kind="step") == 40


@pytest.mark.parametrize("query", [{"after": "-1"}, {"after": "x"}, {"attempt": ""}, {"token": "1.5"}, {"run_id": "1"}])
async def test_a_malformed_query_is_refused(bench: Bench, query: dict) -> None:
    sidecar = await bench.pod()
    assert (await sidecar.get("records", **query)).status_code == 422


async def test_an_unexpected_error_tells_nothing_of_itself(bench: Bench) -> None:
    sidecar = await bench.pod()

    def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    bench.store._start = broken  # type: ignore[method-assign,assignment]
    answer = await sidecar.post("start")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert (
        bench.sample("milepost_http_request_duration_seconds_count", method="POST", route="/pod/v1/start", status="500")
        == 1
    )
