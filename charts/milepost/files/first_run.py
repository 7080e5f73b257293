"""Make a Task and a Run, wait until the run has succeeded, and remove both: what `helm test` does."""
# ruff: noqa: INP001, S310, T201 - a script in a pod, whose only addresses are https

import json
import os
import secrets
import ssl
import sys
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NAMESPACE = os.environ["TEST_NAMESPACE"]
# A name of its own each time: a Run with the name and input of a finished one is that one, and tests nothing.
NAME = f"{os.environ['TEST_NAME']}-{secrets.token_hex(4)}"
HOST = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
SOURCE = """
import asyncio
import os
import socket

from milepost import Context, task

def add(a: int, b: int) -> int:
    return a + b

def reaches(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True

@task
async def main(ctx: Context, a: int, b: int) -> int:
    total = await ctx.step("add", add, a, b)
    where = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    found = await asyncio.to_thread(reaches, *where)
    await ctx.checkpoint("api-server-open" if found else "api-server-shut", total)
    return total
"""
SECONDS = 120
ENDED = {"Succeeded", "Failed", "Cancelled", "TimedOut", "Expired"}
TLS = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))


def call(method: str, plural: str, name: str = "", body: dict[str, object] | None = None) -> dict[str, Any]:
    """Give the answer of the Kubernetes API; raises HTTPError."""
    url = f"{HOST}/apis/milepost.dev/v1beta1/namespaces/{NAMESPACE}/{plural}{'/' if name else ''}{name}"
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=10, context=TLS) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def create(kind: str, plural: str, spec: dict[str, object]) -> None:
    call(
        "POST",
        plural,
        body={"apiVersion": "milepost.dev/v1beta1", "kind": kind, "metadata": {"name": NAME}, "spec": spec},
    )


def remove() -> None:
    """Delete both objects and wait until they are gone."""
    for plural in ("runs", "tasks"):
        try:
            call("DELETE", plural, NAME)
            while call("GET", plural, NAME):
                time.sleep(0.5)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.NOT_FOUND:
                raise


def network(checkpoint: object) -> str:
    """Say whether the policies for tasks hold, which nobody but a task can find out."""
    if checkpoint == "api-server-shut":
        return "the API server is closed to tasks"
    if os.environ["TEST_POLICIES"] == "true":
        return "WARNING: tasks reach the API server: the cluster's network plugin does not enforce NetworkPolicies"
    return "tasks reach the API server: NetworkPolicies for them are switched off"


def main() -> int:
    try:
        # no pod may stay when the test is over
        create("Task", "tasks", {"source": {"inline": SOURCE}, "warm": {"seconds": 0}})
        create("Run", "runs", {"task": NAME, "input": {"a": 40, "b": 2}})
        started, seen = time.monotonic(), ""
        status: dict[str, Any] = {}
        while time.monotonic() - started < SECONDS:
            status = call("GET", "runs", NAME).get("status") or {}
            phase = str(status.get("phase", ""))
            if phase != seen:
                print(f"{time.monotonic() - started:5.1f} s  {phase}")
                seen = phase
            if phase in ENDED:
                break
            time.sleep(0.5)
        if seen == "Succeeded":
            print(network(status.get("lastCheckpoint")))
            return 0
        print(f"the run has not succeeded: {json.dumps(status, indent=2)}", file=sys.stderr)
        return 1
    finally:
        remove()


sys.exit(main())
