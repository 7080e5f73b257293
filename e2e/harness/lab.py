"""Everything a scenario works with, in a namespace of its own: tasks, runs, the counting Service, SQL."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from e2e.harness import programs
from e2e.harness.counter import URL, Counter
from e2e.harness.kubectl import Kubectl, KubectlError, Object, as_object, dig
from e2e.harness.platform import Platform
from e2e.harness.release import Release
from e2e.harness.report import Event, Repeat, repeats
from e2e.harness.sql import Sql, literal
from e2e.harness.wait import eventually

API_VERSION = "milepost.dev/v1beta1"
TERMINAL = frozenset({"Succeeded", "Failed", "Cancelled", "TimedOut", "Expired"})
ENDED = frozenset(phase[0].lower() + phase[1:] for phase in TERMINAL)
"""The same, as rows have them."""
SMALL = {"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}}
QUICK_RETRY = {"maxAttempts": 3, "minSeconds": 0.5, "maxSeconds": 1}
COLD = {"seconds": 0}
"""`warm` of a Task whose every attempt gets a new pod."""


@dataclass(frozen=True)
class Attempt:
    """One attempt as its row tells it. `pod` is None until its sidecar has come forward. `cold`: why it needed a new
    pod; None where a waiting one took it.
    """

    number: int
    cause: str
    state: str
    reason: str | None
    message: str | None
    counted: bool
    infra: bool
    resumed_after: int
    pod_id: str
    pod: str | None
    evidence: Mapping[str, object]
    cold: str | None = None


@dataclass(frozen=True)
class Lab:
    """`namespace` is this scenario's; `sql` and `counter` are shared, so always ask them for one's own runs."""

    platform: Platform
    release: Release
    counter: Counter
    sql: Sql
    namespace: str

    @property
    def kubectl(self) -> Kubectl:
        return self.platform.kubectl

    @classmethod
    def open(cls, platform: Platform, release: Release, counter: Counter, namespace: str) -> "Lab":
        """Make the namespace and give the lab in it."""
        platform.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        return cls(platform, release, counter, release.sql, namespace)

    def task(self, name: str = "steps", source: str = programs.STEPS, /, **spec: object) -> str:
        """Apply a Task with inline source (or `image=`…) that reports to the counting Service; returns its name."""
        self.kubectl.apply(task_manifest(name, source, **spec), namespace=self.namespace)
        return name

    def run(self, task: str = "steps", name: str | None = None, given: object = None, **spec: object) -> "Run":
        """Create a Run with kubectl."""
        chosen = name or f"{task}-{uuid.uuid4().hex[:6]}"
        self.kubectl.create(run_manifest(task, chosen, given, **spec), namespace=self.namespace)
        return Run(self, chosen)

    def runs(self, *names: str) -> "list[Run]":
        return [Run(self, name) for name in names]

    def diagnose(self) -> str:
        """State of the namespace and of the control plane, for a failure's report."""
        ask = self.kubectl.attempt
        parts = [ask("get", "tasks,runs,queues,jobs,pods", "-n", self.namespace, "-o", "wide")]
        parts += [ask("get", "events", "-n", self.namespace, "--sort-by=.lastTimestamp")[-4000:]]
        parts += [self._pods()]
        return "\n".join([*parts, self.release.diagnose()])

    def _pods(self) -> str:
        try:
            rows = self.sql.rows(f"select * from pods where namespace = {literal(self.namespace)} order by created_at")
        except KubectlError as error:
            return f"({error})"
        return "\n".join(json.dumps({key: value for key, value in row.items() if value is not None}) for row in rows)


@dataclass(frozen=True)
class Run:
    """A run by the name of its object."""

    lab: Lab
    name: str

    def manifest(self) -> dict[str, object]:
        return self.lab.kubectl.get("runs.milepost.dev", self.name, self.lab.namespace)

    def status(self, field: str) -> object:
        return dig(self.lab.kubectl.find("runs.milepost.dev", self.name, self.lab.namespace), "status", field)

    @property
    def phase(self) -> str:
        return str(self.status("phase") or "")

    def row(self) -> dict[str, object]:
        """Its row, once there is one, whatever became of its object."""
        query = f"select * from runs where {self._where()}"
        found = eventually(f"a row of run {self.name}", lambda: self.lab.sql.rows(query), diagnose=self.diagnose)
        if len(found) != 1:
            raise AssertionError(f"{self.name} has {len(found)} rows")
        return found[0]

    @property
    def id(self) -> str:
        found = eventually(
            f"a row of run {self.name}",
            lambda: self.lab.sql.value(f"select run_id from runs where {self._where()}"),
            diagnose=self.diagnose,
        )
        return str(found)

    def attempts(self) -> list[Attempt]:
        """Its attempts, oldest first."""
        columns = "a.attempt number, a.cause, a.state, a.reason, a.message, a.counted, a.infra, a.resumed_after, "
        # a pod that served several runs may have lost its row with an older one of them
        joined = (
            "a.pod_id, p.pod_name pod, a.evidence, a.cold_reason cold from attempts a left join pods p using (pod_id)"
        )
        own = f"a.run_id = (select run_id from runs where {self._where()})"
        rows = self.lab.sql.rows(f"select {columns} {joined} where {own} order by a.attempt")
        return [Attempt(**row) for row in rows]  # type: ignore[arg-type]  # the columns are named as the fields

    def records(self) -> dict[str, int]:
        """Each recorded step's key and the attempt that recorded it."""
        rows = self.lab.sql.rows(f"select key, attempt from records where kind = 'step' and run_id = '{self.id}'")
        return {str(row["key"]): int(str(row["attempt"])) for row in rows}

    def result(self) -> object:
        return self.row()["result"]

    def result_members(self) -> dict[str, object]:
        """Its result, which has to be a JSON object."""
        return as_object(self.result())

    def wait(self, *phases: str, timeout: float = 60) -> str:
        """Wait until its object shows one of the phases; none given: until it is over."""
        wanted = frozenset(phases) or TERMINAL

        def look() -> str | None:
            phase = self.phase
            if phase in TERMINAL and phase not in wanted:
                raise AssertionError(f"run {self.name} is {phase}, not {sorted(wanted)}\n{self.diagnose()}")
            return phase if phase in wanted else None

        return eventually(f"run {self.name} in {sorted(wanted)}", look, timeout, 0.3, self.diagnose)

    def wait_state(self, *states: str, timeout: float = 60) -> str:
        """Like `wait`, by the row (`succeeded`): true even where no operator is there to write the object."""

        def look() -> str | None:
            state = self.lab.sql.value(f"select state from runs where {self._where()}")
            return str(state) if state in states else None

        return eventually(f"run {self.name} in state {states}", look, timeout, 0.3, self.diagnose)

    def end(self, timeout: float = 60) -> str:
        """Wait for its end with one idle request to the API: a measurement can't bear the CPU of polling by kubectl."""
        path = f"/v1/runs/{self.name}?namespace={self.lab.namespace}&wait=30"

        def ask() -> str | None:
            answer = self.lab.release.api.call("GET", path, timeout=45)
            phase = str(answer.field("state"))
            return phase if answer.status == HTTPStatus.OK and answer.field("finishedAt") else None

        return eventually(f"the end of run {self.name}", ask, timeout, 0.3, self.diagnose)

    def wait_steps(self, number: int, timeout: float = 60) -> list[Event]:
        """Wait until so many steps of it were acknowledged: the middle of its work."""
        run_id = self.id

        def look() -> list[Event] | None:
            events = self.lab.counter.events(run_id)
            return events if sum(event.phase == "acked" for event in events) >= number else None

        return eventually(f"{number} acknowledged steps of {self.name}", look, timeout, 0.2, self.diagnose)

    def live(self) -> Attempt:
        """Its newest attempt, once a pod has come forward for it."""

        def look() -> Attempt | None:
            newest = self.attempts()[-1:]
            return newest[0] if newest and newest[0].pod and newest[0].state == "running" else None

        return eventually(f"a live attempt of {self.name}", look, diagnose=self.diagnose)

    def events(self) -> list[Event]:
        return self.lab.counter.events(self.id)

    def repeats(self) -> list[Repeat]:
        """Finished steps that were executed again: the report of the task judged against the records."""
        run_id = self.id
        records = {(run_id, key): attempt for key, attempt in self.records().items()}
        return repeats(self.lab.counter.events(run_id), records)

    def diagnose(self) -> str:
        """All that is known of it."""
        where = ("-n", self.lab.namespace)
        story = self.lab.kubectl.attempt("get", "run", self.name, *where, "-o", "yaml")
        return f"{story}\n{self.lab.diagnose()}"

    def _where(self) -> str:
        return f"namespace = {literal(self.lab.namespace)} and name = {literal(self.name)}"


def task_manifest(name: str, source: str | None = None, /, **spec: object) -> Object:
    """A Task; `source` goes inline unless the spec names an image."""
    made: dict[str, object] = {"resources": SMALL, "retry": QUICK_RETRY, "env": counting()}
    if "image" not in spec and source is not None:
        made["source"] = {"inline": source}
    return {"apiVersion": API_VERSION, "kind": "Task", "metadata": {"name": name}, "spec": {**made, **spec}}


def counting() -> list[dict[str, str]]:
    """Environment of a Task that reports what it executes."""
    return [{"name": "COUNTING_URL", "value": URL}]


def run_manifest(task: str, name: str, given: object = None, **spec: object) -> Object:
    """A Run; `given` is its input."""
    made: dict[str, object] = {"task": task} | ({} if given is None else {"input": given})
    return {"apiVersion": API_VERSION, "kind": "Run", "metadata": {"name": name}, "spec": {**made, **spec}}


def wait_all(runs: Sequence[Run], judge: Callable[[str], bool], timeout: float) -> dict[str, str]:
    """Wait until each run's state (one query for all) satisfies `judge`; returns the states by name."""
    lab = runs[0].lab
    names = ", ".join(literal(run.name) for run in runs)
    query = f"select name, state from runs where namespace = {literal(lab.namespace)} and name in ({names})"

    def look() -> dict[str, str] | None:
        states = {str(row["name"]): str(row["state"]) for row in lab.sql.rows(query)}
        return states if len(states) == len(runs) and all(judge(state) for state in states.values()) else None

    return eventually(f"{len(runs)} runs", look, timeout, 0.5, lab.diagnose)


def encoded(value: object) -> str:
    """JSON text, as short as it gets."""
    return json.dumps(value, separators=(",", ":"))
