"""A step that failed for good: recorded once the task goes on from it, and raised again in later attempts."""

import asyncio
import json
from textwrap import dedent

import pytest

from milepost.errors import FencedError, StepFailedError
from milepost.sdk.failed import describe, rebuild
from milepost.sdk.journal import Journal, StepCall
from milepost.sdk.run import AttemptInfo, RunInfo
from milepost.sdk.scope import Failure, Scope, scope, spawn
from milepost.wire.local import EXIT_FAILED
from tests.unit.sdk.conftest import Pod, curl
from tests.unit.sdk.test_runner import HEAD


class RefusedError(Exception):
    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(code, why)
        self.code = code


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("no", 3), ValueError, "('no', 3)"),
        (KeyError("k"), KeyError, "'k'"),
        (json.JSONDecodeError("bad", "doc", 1), json.JSONDecodeError, "bad: line 1 column 2 (char 1)"),
        (RefusedError(4, why="full"), RefusedError, "(4, 'full')"),
        (ExceptionGroup("two", [ValueError(), KeyError()]), StepFailedError, "two (2 sub-exceptions)"),
        (ValueError(object), ValueError, "<class 'object'>"),
        (ValueError("nul \0 lone \ud800"), ValueError, "nul \\x00 lone \\ud800"),
    ],
)
def test_an_error_comes_back_as_what_it_was(error: Exception, kind: type[Exception], text: str):
    again = rebuild(json.loads(describe(error)))
    assert (type(again), str(again)) == (kind, text)
    assert "recorded when the step failed" in again.__notes__[0]


def test_a_type_that_is_gone_keeps_its_name():
    class LocalError(Exception):
        pass

    again = rebuild(json.loads(describe(LocalError("here"))))
    assert isinstance(again, StepFailedError)
    assert (str(again), again.type.rpartition(".")[2]) == ("here", "LocalError")
    for odd in ({}, "text", {"type": "os:system", "args": ["true"]}, {"type": ":", "args": 3}):
        assert isinstance(rebuild(odd), StepFailedError)


def test_only_the_branch_that_went_on_records_its_failures():
    run = RunInfo("r", "r", "n", "t", 1, 1, "first", 3, (), "")
    journal = Journal(AttemptInfo(run, None, None, None, 1000, 1000, 1, 0))
    root, branch = Scope(), Scope("~1/")
    token = scope.set(branch)
    journal.step_failed(StepCall("~1/a", "1()", "~1/", 1), ValueError())
    journal.step_failed(StepCall("~1/b", "2()", "~1/", 2), FencedError("a newer attempt runs"))
    scope.set(root)
    assert journal.take_failures() == []
    scope.set(branch)
    assert [(one.key, one.fingerprint) for one in journal.take_failures()] == [("~1/a", "1()")]
    assert journal.take_failures() == []
    scope.reset(token)


async def test_who_awaited_a_branch_records_its_failure_and_who_did_not_leaves_it():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(spawn)
    here = Scope()
    token = scope.set(here)

    async def fails() -> None:
        scope.get().failures.append(Failure(f"{scope.get().prefix}a", "{}"))
        raise ValueError

    unseen = asyncio.ensure_future(fails())
    await asyncio.gather(asyncio.gather(fails()), return_exceptions=True)
    assert [one.key for one in here.take_failures()] == ["~2/a"]
    await asyncio.wait({unseen})
    assert here.take_failures() == []
    assert unseen.exception()
    assert [one.key for one in here.take_failures()] == ["~1/a"]
    scope.reset(token)
    loop.set_task_factory(None)


def test_what_begins_after_a_failure_records_it_once():
    here = Scope()
    token = scope.set(here)
    before = here.branch()
    here.failures.append(Failure("a", "{}"))
    below, beside = Scope.inside("outer"), here.branch()
    assert before.take_failures() == []
    assert [one.key for one in below.take_failures()] == ["a"]
    assert (beside.take_failures(), here.take_failures()) == ([], [])
    scope.reset(token)


@pytest.mark.parametrize("form", ["async", "plain"])
async def test_a_caught_failure_is_replayed_and_an_uncaught_one_runs_afresh(pod: Pod, form: str):
    text = """
        class NoStock(Exception):
            pass

        def reserve():
            note("reserve")
            raise NoStock("sold out", 7)

        def charge(attempt):
            note("charge", attempt)
            if attempt == 1:
                raise ConnectionError("try later")
            return "paid"

        @task
        async def main(ctx):
            try:
                await ctx.step("reserve", reserve)
            except NoStock as error:
                reason = list(error.args)
            how = await ctx.step("backorder", lambda: "ordered")
            return [reason, how, await ctx.step("charge", charge, ctx.run.attempt)]
    """
    if form == "plain":
        text = text.replace("async def", "def").replace("await ", "").replace("main(ctx)", "main(ctx: SyncContext)")
    pod.source(HEAD + dedent(text))
    assert await pod.run() == EXIT_FAILED
    assert [(r.key, r.failed) for r in pod.api.records] == [("reserve", True), ("backorder", False)]
    assert json.loads(pod.api.records[0].value)["type"] == "task:NoStock"
    pod.api.next_attempt()
    assert await pod.run() == 0
    assert pod.api.settlements[1]["result"] == '[["sold out",7],"ordered","paid"]'
    assert pod.words() == ["reserve", "charge", "1", "charge", "2"]


async def test_the_local_protocol_tells_a_failed_step(pod: Pod):
    await pod.start_sidecar()
    client = await pod.connected()
    await curl(client, "GET", "/v1/attempt")  # waits for the start
    headers = [("Milepost-Failed", "true")]
    put = await curl(client, "PUT", "/v1/steps/s", b'{"message": "no"}', headers)
    assert put.status == 200
    got = await curl(client, "GET", "/v1/steps/s")
    assert (got.headers["milepost-failed"], got.body) == ("true", b'{"message": "no"}')
    listed = await curl(client, "GET", "/v1/records?after=0")
    assert json.loads(listed.body)["failed"] is True
    assert (await curl(client, "PUT", "/v1/checkpoints/c", b"1", headers)).problem()["code"] == "bad-failed"


async def test_the_local_protocol_suspends(pod: Pod):
    pod.api.start["waits"] = [{"key": "k", "kind": "signal", "timed_out": False, "value": '{"a": 1.50}', "new": 1}]
    await pod.start_sidecar()
    client = await pod.connected()
    attempt = await curl(client, "GET", "/v1/attempt")
    assert b'"waits":[{"key":"k","kind":"signal","timed_out":false,"value":{"a": 1.50}}]' in attempt.body
    for bad, place in (
        (b'{"waits": []}', "$.waits"),
        (b'{"waits": [{"key": "k"}]}', "$.waits[0].kind"),
        (b'{"waits": [{"key": "k", "kind": "timer", "seconds": "1"}]}', "$.waits[0].seconds"),
    ):
        answer = await curl(client, "PUT", "/v1/suspension", bad)
        assert (answer.status, answer.problem()["path"]) == (422, place)
    wait = {"key": "w", "kind": "timer", "seconds": 3600}
    answer = await curl(client, "PUT", "/v1/suspension", json.dumps({"waits": [wait]}).encode())
    assert answer.status == 200
    (settled,) = pod.api.settlements
    assert (settled["outcome"], settled["waits"]) == ("suspended", [wait | {"name": None, "until": None}])
