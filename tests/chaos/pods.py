"""A node: a process with simulated pods, each the production sidecar without its socket, and a task in its stead.

Orders come as JSON lines on stdin (`start`, `kill`), news go out on stdout (`at-work`, `ended`).
"""

import asyncio
import contextlib
import json
import os
import random
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from milepost.net.messages import ProblemError, unique_id
from milepost.sidecar.app import Sidecar
from milepost.sidecar.calls import StoppedError
from milepost.sidecar.session import SessionRefusedError
from milepost.sidecar.settings import Settings
from milepost.sidecar.settle import Settlement
from milepost.wire.pod import Evidence, Failure, RecordWrite, Start
from tests.chaos.history import Journal, fingerprint
from tests.chaos.kube import PREFIX

OK = 200


class CrashedError(Exception):
    """The container is gone: nothing is settled."""


class Pod:
    """One pod's life, from its session to its end."""

    def __init__(self, pod_id: str, port: int, home: Path, journal: Journal) -> None:
        token = home / f"{pod_id}.token"
        token.write_text(PREFIX + pod_id)
        settings = Settings("127.0.0.1", port, False, None, pod_id, str(home / pod_id), str(token))
        self._pod_id = pod_id
        self._sidecar = Sidecar(settings)
        self._tenure = self._sidecar.tenure
        self._state = self._tenure.state
        self._journal = journal

    async def run(self) -> bool:
        """Whether the attempt was settled."""
        beginning = asyncio.create_task(self._sidecar.begin())
        try:
            start = await self._state.wait_started()
            _tell(news="at-work", pod=self._pod_id, run=start.run_id)
            await self._work(start)
        except (ProblemError, StoppedError, SessionRefusedError) as stop:
            start_known = self._state.start
            if start_known is not None:
                code = getattr(stop, "code", "stopped")
                self._journal.write("refused", run=start_known.run_id, attempt=start_known.attempt, code=code)
        except CrashedError:
            return False
        finally:
            beginning.cancel()
            await asyncio.gather(beginning, return_exceptions=True)
            await self._sidecar.end()
        return self._state.phase == "settled"

    async def _work(self, start: Start) -> None:
        plan = json.loads(start.input)
        known = await self._read(start)
        for n in range(plan["steps"]):
            if self._state.directive == "cancel":
                await self._settle(start, "failed", failure=Failure("cancelled", "Cancelled", "asked to end"))
                return
            if plan.get("crash_at") == n and start.attempt == 1:
                raise CrashedError
            key = f"step/{n}"
            if key not in known:
                await self._step(start, key, plan["seconds"])
            await self._put(start, "checkpoint", "done", json.dumps(n))
        if start.attempt <= plan.get("failures", 0):
            await self._settle(start, "failed", failure=Failure("user", "ValueError", "planned"))
        else:
            await self._settle(start, "succeeded", result=json.dumps({"n": plan["n"], "attempt": start.attempt}))

    async def _read(self, start: Start) -> set[str]:
        """What earlier attempts left, all of it, as the task would be served."""
        fence = self._state.fence
        query = f"run_id={fence.run_id}&attempt={fence.attempt}&token={fence.token}&after=0"
        reply = await self._tenure.calls.call("GET", f"/records?{query}")
        if reply.status != OK:
            raise ProblemError(reply.status, str(reply.problem().get("code")), "no records to read")
        found = [json.loads(line) for line in reply.body.splitlines()]
        self._journal.write(
            "read", run=start.run_id, attempt=start.attempt, seqs={r["seq"]: fingerprint(r["value"]) for r in found}
        )
        return {r["key"] for r in found if r["kind"] == "step"}

    async def _step(self, start: Start, key: str, seconds: float) -> None:
        self._journal.write("body", run=start.run_id, attempt=start.attempt, key=key)
        await asyncio.sleep(seconds * random.uniform(0.3, 1.7))
        await self._put(start, "step", key, json.dumps({"attempt": start.attempt, "salt": os.urandom(8).hex()}))

    async def _put(self, start: Start, kind: Any, key: str, value: str) -> None:
        write = RecordWrite(unique_id(), kind, key, value)
        seq = await self._tenure.forwarder.put(write)
        self._journal.write(
            "ack", run=start.run_id, attempt=start.attempt, write=write.write_id, kind=kind, key=key, seq=seq,
            value=fingerprint(value),
        )  # fmt: skip

    async def _settle(
        self, start: Start, outcome: Any, *, result: str | None = None, failure: Failure | None = None
    ) -> None:
        wanted = Settlement(unique_id(), outcome, result, failure, Evidence())
        state = await self._tenure.settler.settle(wanted)
        self._journal.write(
            "settled", run=start.run_id, attempt=start.attempt, outcome=outcome, state=state, result=result
        )


def _tell(**news: object) -> None:
    sys.stdout.write(json.dumps(news) + "\n")
    sys.stdout.flush()


async def serve(port: int, journal: Journal) -> None:
    """Run pods until stdin ends."""
    running: dict[str, asyncio.Task[bool]] = {}
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with tempfile.TemporaryDirectory(prefix="milepost-chaos-node-") as home:

        def start(pod_id: str) -> None:
            task = asyncio.create_task(Pod(pod_id, port, Path(home), journal).run())
            running[pod_id] = task
            task.add_done_callback(lambda ended: tell_end(pod_id, ended))

        def tell_end(pod_id: str, task: asyncio.Task[bool]) -> None:
            """Not in the task itself: one that is killed before its first step runs no line of its own."""
            del running[pod_id]
            if not task.cancelled() and (error := task.exception()):
                traceback.print_exception(error)
            _tell(news="ended", pod=pod_id, settled=not task.cancelled() and not task.exception() and task.result())

        while line := await reader.readline():
            order = json.loads(line)
            pod_id = order["pod"]
            if order["order"] == "start":
                start(pod_id)
            elif pod_id in running:
                running[pod_id].cancel()
        for task in list(running.values()):
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1]), Journal(Path(sys.argv[2]))))
