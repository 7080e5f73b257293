"""Peers measured in the same run, on the same cluster: what the work costs without Milepost."""

import re
import time

from e2e.harness.lab import Lab
from e2e.harness.release import NAMESPACE
from e2e.harness.wait import eventually

TABLE = "create table if not exists bench_floor (id bigint generated always as identity primary key, value json)"
INSERT = """insert into bench_floor (value) values ('"{value}"');"""
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
        "resources": {"limits": {"cpu": "1", "memory": "128Mi"}},
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

    def printed() -> float | None:
        said = lab.kubectl.attempt("logs", f"job/{name}", "-n", lab.namespace).strip()
        return float(said) if re.fullmatch(r"\d+\.\d+", said) else None

    return eventually("the bare Job's line", printed, 60) - created


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
