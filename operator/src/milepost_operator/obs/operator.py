"""The operator's metrics. Seconds; labels have few values: never a run or a pod."""

from prometheus_client import Counter, Gauge

from milepost_operator.obs.metrics import ProcessMetrics


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
