"""Metrics of a process, and those of the api. Seconds and bytes; few values a label, never a run, a pod or a user's."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from milepost.wire.pod import Evidence

_REQUEST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_MEMORY = tuple(2**n for n in range(25, 36))
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ProcessMetrics:
    """What every process tells, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def exposition(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self.registry)


class Metrics(ProcessMetrics):
    """The api's."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self.http_seconds = Histogram(
            "milepost_http_request_duration_seconds",
            "Time from a request's arrival to the last byte of its answer, by route template.",
            ("method", "route", "status"),
            buckets=_REQUEST,
            registry=registry,
        )
        self.batch_requests = Histogram(
            "milepost_batch_requests",
            "Requests of sidecars committed together in one statement.",
            ("batch",),
            buckets=_BATCH,
            registry=registry,
        )
        self.batch_seconds = Histogram(
            "milepost_batch_commit_duration_seconds",
            "Time that the commit of one batch took.",
            ("batch",),
            buckets=_REQUEST,
            registry=registry,
        )
        self.records = Counter(
            "milepost_records_committed",
            "Records (steps and checkpoints) acknowledged to sidecars after their commit.",
            ("kind",),
            registry=registry,
        )
        self.record_bytes = Counter(
            "milepost_record_bytes_committed",
            "Size of the values of acknowledged records, as JSON text.",
            registry=registry,
        )
        self.object_bytes = Counter(
            "milepost_object_bytes",
            "Bytes of values that went into the object storage, or came out of it.",
            ("way",),
            registry=registry,
        )
        self.object_storage_up = Gauge(
            "milepost_object_storage_up",
            "Whether the object storage took a small object when it was last asked to (1 or 0).",
            ("bucket",),
            registry=registry,
        )
        self.runs_created = Counter(
            "milepost_runs_created",
            "Answers to run creations by the HTTP API: created, or duplicate by idempotency key.",
            ("outcome",),
            registry=registry,
        )
        self.admitted = Counter("milepost_runs_admitted", "Runs that got a slot, by this process.", registry=registry)
        self.prewarmed = Counter(
            "milepost_pods_prewarmed",
            "Pods that this process had made before there was a run for them.",
            registry=registry,
        )
        self.reaped = Counter(
            "milepost_attempts_reaped",
            "Attempts and runs that this process ended for their lease, timeout or grace.",
            registry=registry,
        )
        self.scheduled = Counter(
            "milepost_scheduled_runs",
            "Runs that schedules made.",
            registry=registry,
        )
        self.settled = Counter(
            "milepost_attempts_settled",
            "Attempts that settled themselves, by the run's state after it and the reason given.",
            ("state", "reason"),
            registry=registry,
        )
        self.peak_bytes = Histogram(
            "milepost_attempt_peak_bytes",
            "Memory that settled attempts took at most: of the container, or else of their largest process.",
            buckets=_MEMORY,
            registry=registry,
        )
        self.throttled_seconds = Counter(
            "milepost_attempt_throttled_seconds",
            "Time for which the CPU limit held settled attempts back.",
            registry=registry,
        )
        self.pod_starts = Counter(
            "milepost_pod_starts",
            "Attempts that started: warm, in a pod that waited, or cold, in a new one, with the reason of that.",
            ("start", "reason"),
            registry=registry,
        )
        self.pod_sessions = Counter(
            "milepost_pod_sessions",
            "Session requests of sidecars by outcome: granted, renewed, or the code of the refusal.",
            ("outcome",),
            registry=registry,
        )
        self.violations = Gauge(
            "milepost_invariant_violations",
            "Rows that break an invariant, counted every 30 s. Anything but 0 is a bug.",
            ("invariant",),
            registry=registry,
        )
        self.duty_seconds = Histogram(
            "milepost_duty_turn_duration_seconds",
            "Time of one turn of a periodic duty.",
            ("duty",),
            buckets=_REQUEST,
            registry=registry,
        )
        self.duty_failures = Counter(
            "milepost_duty_failures",
            "Turns of a periodic duty that failed and will be repeated, by cause: unavailable or unexpected.",
            ("duty", "cause"),
            registry=registry,
        )

    def used(self, evidence: Evidence) -> None:
        """What a settled attempt told of itself."""
        most = max(evidence.peak_bytes, evidence.resident_bytes)
        if most:
            self.peak_bytes.observe(most)
        self.throttled_seconds.inc(max(0, evidence.throttled_ms) / 1000)

    def started(self, cold_reason: str | None) -> None:
        """An attempt started; None: a pod that waited took it."""
        self.pod_starts.labels(*(("warm", "") if cold_reason is None else ("cold", cold_reason))).inc()
