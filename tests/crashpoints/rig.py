"""Runs many runs to their ends, each in as many pods as it takes; the pods' processes are forked of a zygote."""

import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import Ending, PodSession, Retry
from milepost_operator.domain.states import Reason
from tests.crashpoints.kill import MODES, Mode
from tests.crashpoints.tasks import PLAIN_SHAPES, SHAPES
from tests.integration.engine import NS, apply_task, launch, trigger

ROOT: Final = Path(__file__).parents[2]
AT_ONCE: Final = 3
POD_SECONDS: Final = 30.0
LOST: Final = Ending(Reason.POD_LOST, "its processes were killed", counted=False, infra=True)
Kill = tuple[int, int, Mode, float]
"""Attempt, number of the write in it, what happens there, seconds after sending (sidecar, pod)."""


@dataclass
class Case:
    """One run and where it is disturbed. What came of it: `state`, `result`, `attempts`, and its records."""

    shape: str
    kills: tuple[Kill, ...] = ()
    home: Path = Path()
    run_id: str = ""
    state: str = ""
    result: str | None = None
    attempts: int = 0
    steps: dict[str, tuple[str, bool]] = field(default_factory=dict)
    checkpoints: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        places = "+".join(f"{mode}@{attempt}.{at}" for attempt, at, mode, _ in self.kills)
        return f"{self.shape}-{places or 'undisturbed'}"

    @property
    def notes(self) -> list[str]:
        """What its processes noted, in order."""
        noted = self.home / "notes"
        return noted.read_text().splitlines() if noted.exists() else []

    @property
    def writes(self) -> int:
        """Writes of its only attempt, the settling included: of an undisturbed case."""
        return len(self.steps) + self.versions + 1

    versions: int = 0


class Zygote:
    """The process that forks the others."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._waiting: dict[tuple[str, str], asyncio.Future[int]] = {}
        self._reader = asyncio.ensure_future(self._read())

    async def start(self, module: str, env: dict[str, str], home: Path) -> tuple[int, asyncio.Future[int]]:
        """Pid and, later, exit code of a new process."""
        name = str(next(self._numbers))
        loop = asyncio.get_running_loop()
        pid, code = (self._waiting.setdefault((name, what), loop.create_future()) for what in ("pid", "code"))
        asked = {"id": name, "module": module, "env": env, "cwd": str(home), "log": str(home / "log")}
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        return await pid, code

    async def _read(self) -> None:
        async for line in self._process.stdout:
            told = json.loads(line)
            what = "pid" if "pid" in told else "code"
            self._waiting.pop((told["id"], what)).set_result(told[what])

    async def end(self) -> None:
        self._process.stdin.close()
        await self._process.wait()
        await self._reader


@asynccontextmanager
async def zygote() -> AsyncIterator[Zygote]:
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    env = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.crashpoints.zygote", env=env, cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    forks = Zygote(process)
    try:
        yield forks
    finally:
        await forks.end()


class Cluster:
    """What launches pods, and tells of those that died, for the runs of one store."""

    def __init__(self, store: PostgresStore, port: int, forks: Zygote, home: Path) -> None:
        self._store = store
        self._port = port
        self._forks = forks
        self._home = home
        self._numbers = itertools.count()
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def run(self, cases: list[Case]) -> None:
        """Run each to its end, and read what came of it."""
        by_run = {}
        for case in cases:
            case.home = self._home / f"run{next(self._numbers)}"
            case.home.mkdir()
            data = {"shape": case.shape, "notes": str(case.home / "notes"), "kills": [list(k) for k in case.kills]}
            created = await trigger(self._store, "main" if case.shape in SHAPES else "plain", input=json.dumps(data))
            case.run_id = str(created.run_id)
            by_run[case.run_id] = case
        while sessions := await launch(self._store):
            await asyncio.gather(*(self._pod(session, by_run) for session in sessions))
        for case in cases:
            await self._read(case)

    async def _pod(self, session: PodSession, by_run: dict[str, Case]) -> None:
        async with self._turns:
            rows = await self._store._db.fetch("select run_id from pods where pod_id = $1", session.pod_id)
            case = by_run[str(rows[0]["run_id"])]
            case.attempts += 1
            # a socket's path has to be short
            with tempfile.TemporaryDirectory(prefix="mp-") as place:
                home = Path(place)
                try:
                    async with asyncio.timeout(POD_SECONDS):
                        code = await self._processes(session, home)
                finally:
                    with (case.home / "log").open("a") as log:
                        log.write(f"-- pod {case.attempts}\n{(home / 'log').read_text()}")
            if code < 0:  # what the operator would see of the pod
                leads = await self._store._db.fetch("select epoch from leadership")
                await self._store.pod_ended(leads[0]["epoch"], session.pod_id, None, LOST)

    async def _processes(self, session: PodSession, home: Path) -> int:
        (home / "token").write_text(f"token-of-{session.pod_id}")
        env = {
            "PATH": os.environ["PATH"],
            "MILEPOST_API_URL": f"http://127.0.0.1:{self._port}",
            "MILEPOST_POD_ID": session.pod_id,
            "MILEPOST_SOCKET": str(home / "s.sock"),
            "MILEPOST_TOKEN_FILE": str(home / "token"),
        }
        leave = asyncio.Event()
        kubelet = asyncio.ensure_future(self._keep_sidecar(env, home, leave))
        try:
            _, code = await self._forks.start("milepost.runner", env, home)
            return await code
        finally:
            leave.set()
            await kubelet

    async def _keep_sidecar(self, env: dict[str, str], home: Path, leave: asyncio.Event) -> None:
        """A native sidecar is started again whenever it ends, until the pod's end."""
        left = asyncio.ensure_future(leave.wait())
        while not left.done():
            pid, code = await self._forks.start("milepost.sidecar", env, home)
            (home / "sidecar.pid").write_text(str(pid))
            await asyncio.wait({left, code}, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                with suppress(ProcessLookupError):  # it may be on its way
                    os.kill(pid, signal.SIGTERM)
            await code

    async def _read(self, case: Case) -> None:
        run = await self._store.get_run(NS, case.run_id)
        case.state, case.result = run.state, run.result
        rows = await self._store._db.fetch(
            "select kind, key, value::text, failed from record_values where run_id = $1::text::uuid order by seq",
            case.run_id,
        )
        case.steps = {r["key"]: (r["value"], r["failed"]) for r in rows if r["kind"] == "step"}
        case.checkpoints = {r["key"]: r["value"] for r in rows if r["kind"] == "checkpoint"}
        case.versions = sum(r["kind"] == "checkpoint" for r in rows)


@asynccontextmanager
async def cluster(store: PostgresStore, port: int) -> AsyncIterator[Cluster]:
    """The tasks are known to the store; `port`: where its api listens."""
    retry = Retry(max_attempts=9, min_seconds=0.0, max_seconds=0.0)
    for name in ("main", "plain"):
        await apply_task(store, name, shape={"entrypoint": f"tests.crashpoints.tasks:{name}"}, retry=retry)
    home = Path(tempfile.mkdtemp(prefix="milepost-crash-"))
    try:
        async with zygote() as forks:
            yield Cluster(store, port, forks, home)
    finally:
        shutil.rmtree(home)


def undisturbed() -> list[Case]:
    return [Case(name) for name in (*SHAPES, *PLAIN_SHAPES)]


def once(model: Case, rng: random.Random, modes: Iterable[Mode] = MODES) -> list[Case]:
    """Every write of a task, and everything that can happen there."""
    return [Case(model.shape, ((1, at, mode, _delay(rng)),)) for at in range(1, model.writes + 1) for mode in modes]


def several(model: Case, rng: random.Random, kills: int, samples: int, modes: Sequence[Mode] = MODES) -> list[Case]:
    """Attempts that die one after another, at places drawn by lot."""
    return [
        Case(
            model.shape,
            tuple((n, rng.randint(1, model.writes), rng.choice(modes), _delay(rng)) for n in range(1, kills + 1)),
        )
        for _ in range(samples)
    ]


def _delay(rng: random.Random) -> float:
    return rng.uniform(0.0, 0.006)
