"""Objects that the API server must take, and ones that it must refuse with a word on the field."""

from typing import Any

Body = dict[str, Any]


def task(spec: Body) -> Body:
    return {"apiVersion": "milepost.dev/v1beta1", "kind": "Task", "metadata": {"generateName": "t-"}, "spec": spec}


def queue(spec: Body) -> Body:
    return {"apiVersion": "milepost.dev/v1beta1", "kind": "Queue", "metadata": {"generateName": "q-"}, "spec": spec}


def run(spec: Body) -> Body:
    return {"apiVersion": "milepost.dev/v1beta1", "kind": "Run", "metadata": {"generateName": "r-"}, "spec": spec}


FULL: Body = {
    "image": "registry.example/etl:1.4",
    "entrypoint": "etl.tasks:nightly",
    "resources": {
        "requests": {"cpu": "100m", "memory": "128Mi"},
        "limits": {"cpu": 1, "memory": "512Mi", "example.com/gpu": 1},
    },
    "env": [
        {"name": "LEVEL", "value": "info"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "api"}}},
    ],
    "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "APP_"}],
    "inputSchema": {
        "type": "object",
        "properties": {"sku": {"type": ["string", "null"]}, "tree": {"$ref": "#/$defs/Tree"}},
        "required": ["sku"],
        "additionalProperties": False,
        "$defs": {"Tree": {"enum": [None, 1, "a"], "default": {"a": [True]}}},
    },
    "outputSchema": {"type": "null"},
    "queue": "etl",
    "retry": {"maxAttempts": 5, "factor": 1.5, "minSeconds": 0.5, "maxSeconds": 30, "randomize": False}
    | {"onOOM": {"factor": 1.5, "maxMemory": "2Gi"}},
    "timeouts": {"attemptSeconds": 600, "runSeconds": 7200},
    "warm": {"seconds": 300, "max": 2, "min": 0, "predict": False, "reuse": "key", "maxRuns": 50, "maxAgeSeconds": 900},
    "prepull": False,
    "pod": {
        "serviceAccountName": "etl",
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}],
                },
            },
        },
        "volumes": [
            {"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "conf", "configMap": {"name": "settings"}},
            {"name": "down", "downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ],
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}, {"name": "conf", "mountPath": "/conf"}],
        "labels": {"team": "data"},
        "annotations": {"note": "x"},
        "runAsUser": 1000,
        "fsGroup": 1000,
        "readOnlyRootFilesystem": False,
        "terminationGracePeriodSeconds": 60,
    },
}
SCHEDULES: list[Body] = [
    {
        "name": "nightly",
        "cron": "30 2 * * mon-fri",
        "timeZone": "Europe/Berlin",
        "input": {"top": 100, "deep": [{"x": 1}]},
        "jitterSeconds": 300,
        "overlap": "forbid",
        "missed": "catchup",
        "catchupLimit": 50,
        "priority": -10,
        "concurrencyKey": "reports",
        "tags": ["daily"],
        "startAt": "2026-01-01T00:00:00Z",
        "endAt": "2036-01-01T00:00:00+01:00",
        "paused": True,
    },
    {"name": "hourly", "cron": "@hourly"},
    {"name": "seconds", "cron": "*/10 * * * * *", "input": "text", "overlap": "replace", "missed": "latest"},
]
COMMAND: Body = {"image": "busybox:1", "command": ["sh", "-c"], "args": ["exit 0"]}
SOURCE: Body = {"source": {"inline": "from milepost import task\n"}, "entrypoint": "main:hello"}
ENTRY: Body = {"image": "a:1", "entrypoint": "m:f"}


GOOD: dict[str, Body] = {
    "full": task(FULL),
    "command": task(COMMAND),
    "source": task(SOURCE),
    "source-alone": task({"source": {"inline": "x = 1"}}),
    "scheduled": task(ENTRY | {"schedules": SCHEDULES}),
    "network": task(
        ENTRY
        | {
            "network": {
                "egress": "restricted",
                "allow": [
                    {"cidr": "203.0.113.0/24", "ports": [{"port": 443}, {"protocol": "UDP", "port": 1, "endPort": 9}]},
                    {"cidr": "2001:db8::/32"},
                    {"podSelector": {"matchLabels": {"app": "db"}}, "ports": [{"port": 5432}]},
                    {"namespaceSelector": {}},
                    {"podSelector": {}, "namespaceSelector": {"matchLabels": {"team": "data"}}},
                ],
            },
        },
    ),
    "network-none": task(ENTRY | {"network": {"egress": "none"}}),
    "network-more": task(ENTRY | {"network": {"allow": [{"cidr": "10.3.0.0/16"}]}}),
    "network-nothing": task(ENTRY | {"network": {}}),
    "queue": queue({"concurrency": 3}),
    "queue-empty": queue({}),
    "queue-limits": queue(
        {
            "concurrency": 10,
            "perKey": {"concurrency": 2, "rate": {"limit": 5, "periodSeconds": 1, "algorithm": "window"}},
            "rate": {"limit": 100, "periodSeconds": 60, "algorithm": "bucket", "burst": 20},
            "maxDepth": 1000,
            "paused": True,
        },
    ),
    "queue-breaker": queue({"breaker": {"failures": 5, "windowSeconds": 60, "openSeconds": 30, "probes": 2}}),
    "queue-pause-on": queue({"pauseOn": ["RetryStorm", "TimeoutLoop"]}),
    "task-limits": task(ENTRY | {"concurrency": 3, "semaphores": [{"name": "db", "limit": 5, "units": 2}]}),
    "run": run({"task": "full", "input": {"a": [1, {"b": None}]}, "tags": ["x"], "idempotencyKey": "k"}),
    "run-list-input": run({"task": "full", "input": [1, 2]}),
    "run-scalar-input": run({"task": "full", "input": "text"}),
    "run-bare": run({"task": "full"}),
    "run-options": run(
        {
            "task": "full",
            "idempotencyKey": "k",
            "idempotencyScope": "active",
            "delaySeconds": 0,
            "ttlSeconds": 60,
            "deadlineSeconds": 600,
            "priority": -100,
            "concurrencyKey": "",
            "cost": 3,
            "throttle": {"key": "t", "limit": 5, "periodSeconds": 60},
        }
    ),
    "run-debounce": run({"task": "full", "debounce": {"key": "d", "seconds": 5, "maxSeconds": 50, "payload": "first"}}),
    "run-singleton": run({"task": "full", "singleton": {"key": "s", "onConflict": "reject"}}),
}


def _pod(**pod: object) -> Body:
    return task(ENTRY | {"pod": pod})


def _network(**network: object) -> Body:
    return task(ENTRY | {"network": network})


def _allowed(**destination: object) -> Body:
    return _network(allow=[destination])


def _scheduled(**changes: object) -> Body:
    return task(ENTRY | {"schedules": [{"name": "a", "cron": "@daily"} | changes]})


BAD: dict[str, tuple[Body, str]] = {
    "cron-fields": (_scheduled(cron="* * *"), "spec.schedules[0].cron"),
    "cron-empty": (_scheduled(cron=""), "spec.schedules[0].cron"),
    "cron-long": (_scheduled(cron="1," * 128 + " * * * *"), "spec.schedules[0].cron"),
    "zone-spelling": (_scheduled(timeZone="New York"), "spec.schedules[0].timeZone"),
    "overlap": (_scheduled(overlap="queue"), "spec.schedules[0].overlap"),
    "replace-catchup": (_scheduled(overlap="replace", missed="catchup"), "use latest"),
    "ends-before": (
        _scheduled(startAt="2026-01-01T00:00:00Z", endAt="2026-01-01T00:00:00+01:00"),
        "endAt must be after startAt",
    ),
    "start-no-time": (_scheduled(startAt="tomorrow"), "spec.schedules[0].startAt"),
    "jitter": (_scheduled(jitterSeconds=-1), "spec.schedules[0].jitterSeconds"),
    "catchup-limit": (_scheduled(catchupLimit=10_001), "spec.schedules[0].catchupLimit"),
    "schedule-twice": (
        task(ENTRY | {"schedules": [{"name": "a", "cron": "@daily"}, {"name": "a", "cron": "@hourly"}]}),
        "spec.schedules[1]",
    ),
    "schedule-name": (_scheduled(name="Not a name"), "spec.schedules[0].name"),
    "schedules-33": (
        task(ENTRY | {"schedules": [{"name": f"s{n}", "cron": "@daily"} for n in range(33)]}),
        "spec.schedules",
    ),
    "no-code": (task({"entrypoint": "m:f"}), "set exactly one of image and source.inline"),
    "two-codes": (task(ENTRY | {"source": {"inline": "x"}}), "set exactly one of image and source.inline"),
    "nothing-to-run": (task({"image": "a:1"}), "image needs an entrypoint"),
    "two-programs": (task(ENTRY | {"command": ["x"]}), "entrypoint and command exclude each other"),
    "source-command": (task({"source": {"inline": "x"}, "command": ["x"]}), "spec.command goes with image"),
    "args-alone": (task(ENTRY | {"args": ["x"]}), "spec.args goes with command"),
    "bad-entrypoint": (task({"image": "a", "entrypoint": "m f"}), "spec.entrypoint"),
    "zero-limit": (task(ENTRY | {"resources": {"limits": {"cpu": "0"}}}), "resources.limits"),
    "zero-int-limit": (task(ENTRY | {"resources": {"limits": {"cpu": 0}}}), "resources.limits"),
    "negative-limit": (task(ENTRY | {"resources": {"limits": {"memory": "-1Mi"}}}), "resources.limits"),
    "bad-quantity": (task(ENTRY | {"resources": {"limits": {"memory": "lots"}}}), "resources.limits"),
    "negative-request": (task(ENTRY | {"resources": {"requests": {"cpu": -1}}}), "resources.requests"),
    "request-over-limit": (
        task(ENTRY | {"resources": {"requests": {"cpu": 2}, "limits": {"cpu": "1500m"}}}),
        "a request can't be above its limit",
    ),
    "env-twice": (task(ENTRY | {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}), "spec.env[1]"),
    "env-reserved": (task(ENTRY | {"env": [{"name": "MILEPOST_X", "value": "1"}]}), "MILEPOST_ are reserved"),
    "env-two-values": (
        task(ENTRY | {"env": [{"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}),
        "value and valueFrom exclude each other",
    ),
    "env-no-source": (task(ENTRY | {"env": [{"name": "A", "valueFrom": {}}]}), "valueFrom: set exactly one"),
    "env-from-nothing": (task(ENTRY | {"envFrom": [{"prefix": "X"}]}), "envFrom: set exactly one"),
    "attempts-0": (task(ENTRY | {"retry": {"maxAttempts": 0}}), "spec.retry.maxAttempts"),
    "attempts-101": (task(ENTRY | {"retry": {"maxAttempts": 101}}), "spec.retry.maxAttempts"),
    "factor": (task(ENTRY | {"retry": {"factor": 0.5}}), "spec.retry.factor"),
    "min-negative": (task(ENTRY | {"retry": {"minSeconds": -1}}), "spec.retry.minSeconds"),
    "max-below-min": (
        task(ENTRY | {"retry": {"minSeconds": 10, "maxSeconds": 1}}),
        "retry.maxSeconds must not be below retry.minSeconds",
    ),
    "oom-no-cap": (task(ENTRY | {"retry": {"onOOM": {"factor": 2}}}), "spec.retry.onOOM.maxMemory"),
    "oom-cap-0": (task(ENTRY | {"retry": {"onOOM": {"maxMemory": 0}}}), "must be a quantity above 0"),
    "oom-cap-word": (task(ENTRY | {"retry": {"onOOM": {"maxMemory": "much"}}}), "spec.retry.onOOM.maxMemory"),
    "oom-factor-below-1": (
        task(ENTRY | {"retry": {"onOOM": {"factor": 0.5, "maxMemory": "1Gi"}}}),
        "spec.retry.onOOM.factor",
    ),
    "timeout-0": (task(ENTRY | {"timeouts": {"attemptSeconds": 0}}), "spec.timeouts.attemptSeconds"),
    "queue-name": (task(ENTRY | {"queue": "Not A Name"}), "spec.queue"),
    "source-too-long": (task({"source": {"inline": "x" * 204_801}}), "spec.source.inline"),
    "host-path": (_pod(volumes=[{"name": "h", "hostPath": {"path": "/"}}]), "volumes"),
    "two-sources": (_pod(volumes=[{"name": "h", "emptyDir": {}, "secret": {"secretName": "a"}}]), "volumes: set"),
    "volume-reserved": (_pod(volumes=[{"name": "milepost-run", "emptyDir": {}}]), "milepost- are reserved"),
    "mount-reserved": (
        _pod(volumes=[{"name": "a", "emptyDir": {}}], volumeMounts=[{"name": "a", "mountPath": "/run/milepost"}]),
        "/run/milepost and",
    ),
    **{
        f"mount-spelled-{number}": (
            _pod(volumes=[{"name": "a", "emptyDir": {}}], volumeMounts=[{"name": "a", "mountPath": path}]),
            "volumeMounts: ",
        )
        for number, path in enumerate(
            ("/var/run/milepost", "/run//milepost", "/run/./milepost", "/run/../run/milepost")
        )
    },
    "mount-unknown": (_pod(volumeMounts=[{"name": "a", "mountPath": "/a"}]), "pod.volumeMounts: every name"),
    "root": (_pod(runAsUser=0), "spec.pod.runAsUser"),
    "sidecar-user": (_pod(runAsUser=65530), "runAsUser"),
    "label-reserved": (_pod(labels={"milepost.dev/pod": "x"}), "are reserved"),
    "annotation-reserved": (_pod(annotations={"milepost.dev/cluster": "x"}), "are reserved"),
    "grace": (_pod(terminationGracePeriodSeconds=0), "spec.pod.terminationGracePeriodSeconds"),
    "warm-seconds": (task(ENTRY | {"warm": {"seconds": -1}}), "spec.warm.seconds"),
    "warm-reuse": (task(ENTRY | {"warm": {"reuse": "always"}}), "spec.warm.reuse"),
    "warm-runs": (task(ENTRY | {"warm": {"maxRuns": 0}}), "spec.warm.maxRuns"),
    "network-word": (_network(egress="closed"), "spec.network.egress"),
    "network-no-list": (_network(egress="restricted"), "egress restricted needs allow"),
    "network-empty-list": (_network(egress="restricted", allow=[]), "spec.network.allow"),
    "network-none-list": (_network(egress="none", allow=[{"cidr": "10.0.0.0/8"}]), "egress none excludes allow"),
    "network-host": (_allowed(cidr="db.example.org/32"), "host names are not possible"),
    "network-address": (_allowed(cidr="203.0.113.10"), "203.0.113.10/32 for a single address"),
    "network-two": (_allowed(cidr="10.0.0.0/8", podSelector={}), "set cidr, or podSelector and namespaceSelector"),
    "network-neither": (_allowed(ports=[{"port": 1}]), "set cidr, or podSelector and namespaceSelector"),
    "network-port": (_allowed(cidr="10.0.0.0/8", ports=[{"port": 0}]), "ports[0].port"),
    "network-no-port": (_allowed(cidr="10.0.0.0/8", ports=[{"protocol": "TCP"}]), "ports[0].port"),
    "network-ports": (_allowed(cidr="10.0.0.0/8", ports=[{"port": 9, "endPort": 8}]), "endPort must not be below port"),
    "warm-min": (task(ENTRY | {"warm": {"min": -1}}), "spec.warm.min"),
    "warm-min-above-max": (task(ENTRY | {"warm": {"min": 3, "max": 2}}), "must not be below warm.min"),
    "warm-min-no-seconds": (task(ENTRY | {"warm": {"min": 1, "seconds": 0}}), "warm.seconds must not be 0"),
    "warm-min-key": (task(ENTRY | {"warm": {"min": 1, "reuse": "key"}}), "warm.reuse must be task"),
    "queue-0": (queue({"concurrency": 0}), "spec.concurrency"),
    "queue-rate-period": (queue({"rate": {"limit": 1, "periodSeconds": 0}}), "spec.rate.periodSeconds"),
    "queue-rate-negative": (queue({"rate": {"limit": -1, "periodSeconds": 1}}), "spec.rate.limit"),
    "queue-rate-window-burst": (queue({"rate": {"limit": 1, "periodSeconds": 1, "burst": 2}}), "algorithm: bucket"),
    "queue-key-0": (queue({"perKey": {"concurrency": 0}}), "spec.perKey.concurrency"),
    "queue-breaker-0": (queue({"breaker": {"failures": 0}}), "spec.breaker.failures"),
    "queue-breaker-bare": (queue({"breaker": {"probes": 1}}), "spec.breaker.failures"),
    "queue-breaker-endless": (queue({"breaker": {"failures": 1, "openSeconds": 86_401}}), "spec.breaker.openSeconds"),
    "queue-pause-on-twice": (queue({"pauseOn": ["RetryStorm", "RetryStorm"]}), "Duplicate value"),
    "queue-pause-on-what": (queue({"pauseOn": ["Storm"]}), "spec.pauseOn"),
    "queue-depth-0": (queue({"maxDepth": 0}), "spec.maxDepth"),
    "task-concurrency-0": (task(ENTRY | {"concurrency": 0}), "spec.concurrency"),
    "task-semaphore-units": (
        task(ENTRY | {"semaphores": [{"name": "db", "limit": 1, "units": 2}]}),
        "units must not be above limit",
    ),
    "task-semaphore-twice": (
        task(ENTRY | {"semaphores": [{"name": "db", "limit": 1}, {"name": "db", "limit": 2}]}),
        "Duplicate value",
    ),
    "queue-word": (queue({"concurrency": "many"}), "spec.concurrency"),
    "run-no-task": (run({"input": {}}), "spec.task"),
    "run-bad-id": (run({"task": "a", "runID": "x" * 36}), "spec.runID"),
    "run-priority": (run({"task": "a", "priority": 101}), "spec.priority"),
    "run-scope": (run({"task": "a", "idempotencyScope": "run"}), "spec.idempotencyScope"),
    "run-endless-debounce": (run({"task": "a", "debounce": {"key": "d", "seconds": 0}}), "spec.debounce.seconds"),
    "run-throttle": (run({"task": "a", "throttle": {"key": "t", "limit": 1}}), "spec.throttle.periodSeconds"),
    "run-tag-twice": (run({"task": "a", "tags": ["x", "x"]}), "spec.tags[1]"),
    "run-long-key": (run({"task": "a", "idempotencyKey": "k" * 257}), "spec.idempotencyKey"),
    "no-spec": ({k: v for k, v in run({}).items() if k != "spec"}, "spec"),
}

RUN: Body = {"task": "a", "input": {"x": 1}, "tags": ["t"], "idempotencyKey": "k"}

CHANGES: dict[str, tuple[Body, str | None]] = {
    "cancel": ({"cancel": True}, None),
    "task": ({"task": "b"}, "spec.task is immutable"),
    "key": ({"idempotencyKey": "other"}, "spec.idempotencyKey is immutable"),
    "key-removed": ({"idempotencyKey": None}, "spec.idempotencyKey is immutable"),
    "tags": ({"tags": ["u"]}, "spec.tags is immutable"),
    "run-id-added": ({"runID": "5e0a9d2e-93a4-4b6e-8f0e-0d6f6d6a1b11"}, "spec.runID is immutable"),
}
"""Merge patches of a Run's spec, and what is said of them."""
