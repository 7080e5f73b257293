"""Peers measured in the same run, on the same cluster: what the work costs without Milepost."""

import re
import time

from e2e.harness.lab import Lab
from e2e.harness.release import NAMESPACE

TABLE = "create table if not exists bench_floor (id bigint generated always as identity primary key, value json)"
INSERT = """insert into bench_floor (value) values ('"{value}"');"""
RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}}
"""Of a task and of its peer; as for the cpu what the chart gives to a Task that says nothing."""
PASSWORD = "PGPASSWORD=$(cat /etc/postgresql-secrets/password)"


def bare_job(lab: Lab, number: int) -> float:
    """Seconds from a plain Job (one container, the same image, no sidecar) to its first line of Python.

    The clock starts when `kubectl create` has returned: the Job was there a little before, in the peer's favour.
    """
    name = f"bare-{number:02}"
    hardened = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {
        "name": "task",
        "image": lab.platform.images()["runner"].ref,
        "command": ["python3", "-c", "import time; print(time.time())"],
        "securityContext": hardened,
        "resources": RESOURCES,
    }
    pod = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": {"spec": pod}},
    }
    lab.kubectl.create(job, namespace=lab.namespace)
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
