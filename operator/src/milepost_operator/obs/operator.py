"""The operator's metrics. Seconds; labels have few values: never a run or a pod."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from prometheus_client import Counter, Gauge

from milepost_operator.domain.findings import TaskFinding
from milepost_operator.domain.queues import QueueView
from milepost_operator.obs.metrics import ProcessMetrics

OPEN_STATES: Final = ("ahead", "wanted", "creating", "created", "bound", "resting", "idle", "offered", "closing")


class OperatorMetrics(ProcessMetrics):
    """The operator's."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self.leader = Gauge("milepost_operator_leader", "1 while this process leads.", registry=registry)
        self.epoch = Gauge("milepost_operator_epoch", "Epoch of this process's newest leadership.", registry=registry)
        self.watch_age = Gauge(
            "milepost_operator_watch_age_seconds",
            "Seconds since the quietest watch gave a sign of life (bookmarks come once a minute).",
            registry=registry,
        )
        self.backlog = Gauge("milepost_operator_intake_backlog", "Objects that wait to be taken in.", registry=registry)
        self.loop_age = Gauge(
            "milepost_operator_loop_age_seconds",
            "Seconds since the last turn of each loop of the leader.",
            ("loop",),
            registry=registry,
        )
        self.loop_failures = Gauge(
            "milepost_operator_loop_failures",
            "Turns of each loop that failed in a row.",
            ("loop",),
            registry=registry,
        )
        self.launched = Counter("milepost_pods_launched", "Jobs created or adopted.", registry=registry)
        self.ended = Counter(
            "milepost_pods_ended",
            "Pods whose end was seen, by the reason it was classified as.",
            ("reason",),
            registry=registry,
        )
        self.policies = Counter(
            "milepost_network_policies_written",
            "NetworkPolicies of tasks that were created, replaced (they were changed, or had to be) or deleted.",
            ("deed",),
            registry=registry,
        )
        self.pods = Gauge(
            "milepost_pods",
            "Pods of tasks by the state of their rows: idle ones wait for work; told by the leader.",
            ("state",),
            registry=registry,
        )
        self.findings = Gauge(
            "milepost_task_finding",
            "1 while a Task's recent attempts show a pattern of failure, or need other memory; told by the leader.",
            ("namespace", "task", "finding"),
            registry=registry,
        )
        self.queue_depth = self._of_queue(
            "depth", "Runs that wait for a slot of the queue, counted up to 10,000; told by the leader."
        )
        self.queue_running = self._of_queue("running", "Runs that hold a slot of the queue.")
        self.queue_limit = self._of_queue("limit", "Slots of the queue; +Inf for no limit.")
        self.queue_oldest = self._of_queue("oldest_seconds", "For how long the first run of the queue waits.")
        self.queue_paused = self._of_queue("paused", "1 while nothing is admitted because the queue is paused.")

    def _of_queue(self, name: str, what: str) -> Gauge:
        return Gauge(f"milepost_queue_{name}", what, ("namespace", "queue"), registry=self.registry)

    def show_queues(self, views: Sequence[QueueView]) -> None:
        """The queues as they are now; those that are gone are told no more."""
        self._forget_queues()
        now = datetime.now(UTC)
        for view in views:
            of = (view.namespace, view.name)
            waits = (now - view.oldest_at).total_seconds() if view.oldest_at else 0.0
            self.queue_depth.labels(*of).set(view.depth)
            self.queue_running.labels(*of).set(view.running)
            self.queue_limit.labels(*of).set(math.inf if view.limit is None else view.limit)
            self.queue_oldest.labels(*of).set(max(0.0, waits))
            self.queue_paused.labels(*of).set(view.pause is not None)

    def show_pods(self, states: Mapping[str, int]) -> None:
        """How many pods there are in each state."""
        for state in OPEN_STATES:
            self.pods.labels(state).set(states.get(state, 0))

    def show_findings(self, found: Sequence[TaskFinding]) -> None:
        """What holds now; the rest is told no more."""
        self.findings.clear()
        for one in found:
            if one.finding.holds:
                self.findings.labels(one.namespace, one.task, one.finding.kind).set(1)

    def forget(self) -> None:
        """Only the leader tells of queues, pods and Tasks."""
        self._forget_queues()
        self.findings.clear()
        self.pods.clear()

    def _forget_queues(self) -> None:
        for gauge in (self.queue_depth, self.queue_running, self.queue_limit, self.queue_oldest, self.queue_paused):
            gauge.clear()
