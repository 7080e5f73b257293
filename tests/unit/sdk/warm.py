"""The pod protocol in memory with a pod's row: one run after another, as /next hands them over."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from milepost.net.messages import ProblemError, Request, Response
from tests.fakes.podapi import Dropped, FakeApi, ok
from tests.unit.sdk.conftest import Pod, end


@dataclass
class WarmApi(FakeApi):
    """`row`: the pod's state. `polls`: bodies of /next. `done`: what each run's attempt was settled with."""

    row: str = "bound"
    run: int = 1
    poll_seconds: float = 20.0
    knows_next: bool = True
    polls: list[dict] = field(default_factory=list)
    done: list[dict] = field(default_factory=list)
    reusable: list[bool] = field(default_factory=list)
    hold_start: bool = False
    withdrawn: int = 0
    ahead: bool = False
    left: list[list[str]] = field(default_factory=list)

    async def offer(self, **start: object) -> None:
        """Reserve the first attempt of another run to the pod."""
        self.run += 1
        self.attempt, self.token, self.records = 1, self.token + 1, []
        self.start |= {"run_id": f"run-{self.run}", "run_name": f"r{self.run}", **start}
        self.row = "offered"
        await self.wake()

    async def close(self) -> None:
        """Let the pod end."""
        self.closed = True
        await self.wake()

    async def is_idle(self) -> None:
        await self.wait_until(lambda: self.row == "idle")

    async def settled_runs(self, count: int) -> None:
        await self.wait_until(lambda: len(self.done) == count)

    def results(self) -> list:
        return [json.loads(one["result"]) if one["result"] else one["outcome"] for one in self.done]

    def streams(self, _request: Request) -> bool:
        return False

    def waits(self, request: Request) -> bool:
        return request.path.endswith("/next")

    async def handle(self, request: Request) -> Response:
        route = request.path.removeprefix("/pod/v1")
        if route == "/session":
            self.reusable.append(json.loads(request.body)["reusable"])
        if route in {"/code", "/left"}:
            self.seen.append(route)
            return self._code() if route == "/code" else await self._left(json.loads(request.body))
        if route != "/next":
            response = await super().handle(request)
            if route == "/start" and self.hold_start:
                await self.wait_until(lambda: not self.hold_start)
            return response
        self.seen.append(route)
        await self.wake()
        if self.down:
            raise Dropped
        if not self.knows_next:
            raise ProblemError(404, "not-found", "no such route")
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.valid:
            raise ProblemError(401, "no-session", "unknown session token")
        return await self._next(json.loads(request.body))

    def _code(self) -> Response:
        source = self.start.get("source")
        return ok({"version": 1, "entrypoint": self.start.get("entrypoint"), "source": source, "new_member": 1})

    async def _left(self, body: dict) -> Response:
        self.left.append(body["left"])
        await self.wake()
        return Response(204)

    async def _next(self, asked: dict) -> Response:
        self.polls.append(asked)
        self.closed = self.closed or asked["retire"] is not None
        if self.row == "resting" or self.ahead:
            self.row, self.ahead = "idle", False
        await self.wake()
        try:
            async with asyncio.timeout(self.poll_seconds), self.changed:
                await self.changed.wait_for(lambda: self.closed or self.row in {"offered", "bound"})
        except TimeoutError:
            return ok({"work": False})
        if self.closed:
            raise ProblemError(410, "closed", "the pod's row is closed")
        return ok({"work": True})

    def _start(self) -> Response:
        if self.withdrawn:
            self.withdrawn -= 1
            self.row = "idle"
        if self.ahead or (self.row == "idle" and not self.done):
            raise ProblemError(409, "no-attempt-yet", "the pod has had no attempt")
        if self.row not in {"offered", "bound"} or self.settled:
            raise ProblemError(410, "gone", "the pod has no attempt now")
        self.row = "bound"
        return super()._start()

    def _check(self, run_id: str, attempt: int, token: int) -> None:
        if run_id != self.run_id:
            raise ProblemError(409, "fenced", "of another run")
        super()._check("run-1", attempt, token)

    @property
    def run_id(self) -> str:
        return f"run-{self.run}"

    @property
    def settled(self) -> bool:
        return any(
            (s["fence"]["run_id"], s["fence"]["attempt"]) == (self.run_id, self.attempt) for s in self.settlements
        )

    def _settle(self, body: dict) -> Response:
        count = len(self.settlements)
        response = super()._settle(body)
        if len(self.settlements) > count:
            self.done.append(body)
            self.row = "resting"
        return response


@dataclass
class WarmPod:
    pod: Pod
    api: WarmApi
    runner: asyncio.subprocess.Process

    async def ended(self) -> int:
        async with asyncio.timeout(30):
            return await self.runner.wait()

    async def restart_sidecar(self) -> None:
        self.pod.sidecar.kill()
        await self.pod.sidecar.wait()
        await self.pod.start_sidecar()

    def log(self) -> str:
        return self.pod.log.read_text()


ISOLATED = (
    "unshare",
    "--user",
    "--map-root-user",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--ipc",
    "--mount",
)
AS_PID_1 = "mount -t tmpfs none /dev/shm && exec $PYTHON -m milepost.runner"


def can_isolate() -> bool:
    """Whether this machine lets us have namespaces, as a container has them."""
    script = AS_PID_1.partition(" && exec")[0]
    try:
        return subprocess.run([*ISOLATED, "sh", "-c", script], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


async def runner_as_pid_1(pod: Pod) -> asyncio.subprocess.Process:
    """The runner in namespaces of its own: PID 1, with its own shared memory."""
    env = pod.env | {"PYTHON": sys.executable}
    env["MILEPOST_SCRATCH"] += ":/dev/shm"
    with pod.log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *ISOLATED, "sh", "-c", AS_PID_1, env=env, stdout=log, stderr=log, cwd=pod.home
        )
    pod._stack.push_async_callback(end, process)
    return process


@asynccontextmanager
async def warm_pod(
    home: Path,
    source: str,
    before: Callable[[WarmApi], None] | None = None,
    *,
    isolated: bool = False,
    ahead: bool = False,
) -> AsyncIterator[WarmPod]:
    """A pod that may be reused, at its first run; `ahead`: or before it."""
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(WarmApi().serving())
        pod = Pod(api, home, stack)
        scratch = home / "scratch"
        scratch.mkdir()
        pod.env |= {"MILEPOST_SCRATCH": str(scratch), "MILEPOST_REUSABLE": "true"}
        if ahead:
            api.ahead, pod.env = True, pod.env | {"MILEPOST_AHEAD": "true"}
        pod.source(source)
        if before is not None:
            before(api)
        await pod.start_sidecar()
        try:
            yield WarmPod(pod, api, await (runner_as_pid_1(pod) if isolated else pod.start_runner()))
        finally:
            print(pod.log.read_text())  # noqa: T201
