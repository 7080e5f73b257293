"""Peers measured in the same run, on the same cluster: what the work costs without Milepost."""

import re
import time
from collections.abc import Mapping, Sequence

from e2e.harness.kubectl import Object
from e2e.harness.lab import Lab
from e2e.harness.release import NAMESPACE

TABLE = "create table if not exists bench_floor (id bigint generated always as identity primary key, value json)"
INSERT = """insert into bench_floor (value) values ('"{value}"');"""
RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}
"""Of a task and of its peer; as for the cpu what the chart gives to a Task that says nothing."""
SIDECAR_RESOURCES = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}}
Resources = Mapping[str, Mapping[str, str]]
PASSWORD = "PGPASSWORD=$(cat /etc/postgresql-secrets/password)"


TELL_TIME = "import time; print(time.time())"
STAY = "import signal; signal.pause()"
HARDENED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def container(name: str, image: str, source: str, resources: Resources, **more: object) -> Object:
    """A container of a peer that runs a line of Python."""
    command = ["python3", "-c", source]
    made = {"name": name, "image": image, "command": command, "securityContext": HARDENED, "resources": resources}
    return made | more


def job(name: str, *containers: Object, sidecars: Sequence[Object] = ()) -> Object:
    """A plain Job of one pod."""
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "initContainers": sidecars,
        "containers": containers,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"peer": "bare"}},
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": {"peer": "bare"}}, "spec": pod}},
    }


def bare_jobs(lab: Lab, number: int, resources: Resources) -> float:
    """Seconds from the creation of the first of so many plain Jobs to the first line of Python in the last of them.

    Each has the shape of a task's pod: a native sidecar beside one container. The clock starts with `kubectl create`,
    which makes them all.
    """
    image = lab.platform.images()["runner"].ref
    sidecar = container("sidecar", image, STAY, SIDECAR_RESOURCES, restartPolicy="Always")
    made = [
        job(f"many-{one:02}", container("task", image, TELL_TIME, resources), sidecars=[sidecar])
        for one in range(number)
    ]
    begun = time.time()
    lab.kubectl.create(*made, namespace=lab.namespace)
    words = ["--for=condition=complete", "job", "-l", "peer=bare", "-n", lab.namespace, "--timeout=180s"]
    lab.kubectl.run("wait", *words, timeout=190)
    words = ["-l", "peer=bare", "-c", "task", "-n", lab.namespace, "--tail=-1", f"--max-log-requests={number}"]
    told = lab.kubectl.run("logs", *words).split()
    if len(told) != number:
        raise RuntimeError(f"{len(told)} of {number} plain Jobs told their time")
    return max(map(float, told)) - begun


def bare_job(lab: Lab, number: int) -> float:
    """Seconds from a plain Job (one container, the same image, no sidecar) to its first line of Python.

    The clock starts when `kubectl create` has returned: the Job was there a little before, in the peer's favour.
    """
    name = f"bare-{number:02}"
    task = container("task", lab.platform.images()["runner"].ref, TELL_TIME, RESOURCES)
    lab.kubectl.create(job(name, task), namespace=lab.namespace)
    created = time.time()
    job_name = f"job/{name}"  # one watch, no polling: what waits must not take CPU from what is measured
    lab.kubectl.run("wait", "--for=condition=complete", job_name, "-n", lab.namespace, "--timeout=60s", timeout=70)
    return float(lab.kubectl.run("logs", job_name, "-n", lab.namespace)) - created


def commit_floor(lab: Lab, size: int, commits: int) -> float:
    """Milliseconds of one committed insert of so many bytes, by pgbench beside the same Postgres."""
    sql = lab.sql
    sql.run(TABLE)
    script = INSERT.format(value="x" * size)
    command = (
        f"cat > /tmp/floor.sql && {PASSWORD} $(ls -d /usr/lib/postgresql/*/bin | tail -1)/pgbench"
        f" -n -h 127.0.0.1 -c 1 -t {commits} -f /tmp/floor.sql -U milepost milepost"
    )
    pod = lab.release.pod_names("postgres")[0]
    said = lab.kubectl.execute(pod, NAMESPACE, "postgres", "sh", "-c", command, text_in=script)
    sql.run("drop table bench_floor")
    found = re.search(r"latency average = ([0-9.]+) ms", said)
    if not found:
        raise RuntimeError(f"pgbench said nothing of latency: {said}")
    return float(found[1])
