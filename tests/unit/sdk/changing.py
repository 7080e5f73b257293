"""A run in memory whose code changes from attempt to attempt, in both kinds of task."""

import asyncio
import json
from collections.abc import Callable
from contextvars import copy_context
from textwrap import dedent
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

from milepost import ChangedCodeError, Context, SyncContext
from milepost.net.messages import Headers, Reply
from milepost.sdk.context import enter
from milepost.sdk.journal import Journal
from milepost.sdk.run import AttemptInfo, RunInfo
from milepost.sdk.scope import spawn
from milepost.sdk.sync import enter_sync
from tests.unit.sdk.test_runner import HEAD

STEPS = """
def done(name, *args):
    note(name)
    return name

@step
def add(n, top=0):
    note("add", n)
    return n

@step(key=lambda n: f"item/{n}")
def item(n):
    note("item", n)
    return n

@step(key=lambda n: f"item/{n}")
def other(n):
    note("other", n)
    return n
"""


def source(body: str, form: str, end: str = 'raise RuntimeError("again")') -> str:
    """A task of these lines; `form`: async or plain."""
    text = dedent(body).strip() + f"\nif ctx.run.attempt == 1:\n    {end}\n"
    if form == "plain":
        text = text.replace("await ", "")
    head = "@task\nasync def main(ctx):\n" if form == "async" else "@task\ndef main(ctx: SyncContext):\n"
    indented = "".join(f"    {line}\n" for line in text.splitlines())
    return HEAD + STEPS + head + indented + '    return "the end"\n'


class Kept:
    """The records of a run, in memory; `words`: what its task noted in the last attempt."""

    def __init__(self) -> None:
        self.records: dict[str, dict] = {}
        self.words: list[str] = []
        self.log: list[str] = []

    def write(self, target: str, headers: Headers, body: bytes, attempt: int) -> Reply:
        told, (_, _, kind, key) = dict(headers), target.split("/")
        assert kind == "checkpoints" or key not in self.records
        self.records[key] = {
            "seq": len(self.records) + 1, "kind": kind[:-1], "key": unquote(key), "value": json.loads(body),
            "types": told.get("Milepost-Types"), "fingerprint": told.get("Milepost-Fingerprint"), "attempt": attempt,
            "failed": told.get("Milepost-Failed") == "true",
        }  # fmt: skip
        return Reply(200, {}, b'{"seq": 1}')

    def attempt(self, text: str, number: int, **start: object) -> str:
        """Run an attempt in this process; what it returned. Raises what ended it."""
        run = RunInfo("run-1", "r", "n", "t", 1, number, "first", 3, (), "")
        journal = Journal(AttemptInfo(run, None, None, None, 10**6, 10**6, 1, 0, **start))
        for record in self.records.values():
            journal.load(json.dumps(record).encode())
        self.words.clear()
        module: dict = {"__name__": "task"}
        exec(compile(text, "/user/task.py", "exec"), module)
        module["note"] = lambda *words: self.words.extend(map(str, words))
        fn = module["main"]
        try:
            return asyncio.run(self._run(fn, journal)) if fn.is_async else copy_context().run(self._plain, fn, journal)
        finally:
            journal.check_intact()

    async def _run(self, fn: Callable, journal: Journal) -> str:
        kept = self

        class Sidecar:
            async def call(self, _method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
                await asyncio.sleep(0)
                return kept.write(target, headers, body, journal.attempt.run.attempt)

        asyncio.get_running_loop().set_task_factory(spawn)
        context = Context(journal, Sidecar())
        enter(context)
        return await fn(context)

    def _plain(self, fn: Callable, journal: Journal) -> str:
        def call(_method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
            return self.write(target, headers, body, journal.attempt.run.attempt)

        context = SyncContext(journal, SimpleNamespace(call=call))
        enter_sync(context)
        return fn(context)


def two_attempts(kept: Kept, first: str, second: str, form: str = "async", **start: object) -> ChangedCodeError | None:
    """Run one code to its end without a result, then another; the change that was found."""
    with pytest.raises(RuntimeError, match="again"):
        kept.attempt(source(first, form), 1)
    try:
        assert kept.attempt(source(second, form), 2, **start) == "the end"
    except ChangedCodeError as error:
        return error
    return None


A, B, C = ('await ctx.step("a", done, "a")', 'await ctx.step("b", done, "b")', 'await ctx.step("c", done, "c")')
ABC = f"{A}\n{B}\n{C}"
GATHER = "await asyncio.gather({})"
