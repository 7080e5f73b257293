"""Who reaches whom: the same look from a task, from a plain pod, and from a node."""

import json
from collections.abc import Mapping, Sequence

from e2e.cluster.shell import Result
from e2e.harness.faults import Nodes
from e2e.harness.kubectl import Object, dig
from e2e.harness.lab import Lab
from e2e.harness.wait import eventually

LOOK = '''
import asyncio
import socket

PATIENCE = 4.0


async def opens(host: str, port: int) -> bool:
    """Whether a connection comes about; also a refusal says that the packet arrived, and raises."""
    try:
        async with asyncio.timeout(PATIENCE):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return False
    except OSError as error:
        if error.errno in (101, 113):  # no route: somebody on the way said no
            return False
        raise
    writer.close()
    return True


async def look(targets: dict[str, list]) -> dict[str, bool]:
    """Of each target (host and port) whether it can be reached, all at once."""
    found = await asyncio.gather(*(opens(host, port) for host, port in targets.values()))
    return dict(zip(targets, found, strict=True))
'''

TASK = (
    LOOK
    + """

from milepost import Context, task


@task(id="look")
async def main(ctx: Context, targets: dict[str, list[str | int]]) -> dict[str, bool]:
    return await look(targets)
"""
)
WATCH = (
    LOOK
    + '''

from milepost import Context, task


@task(id="watch")
async def main(ctx: Context, host: str, port: int) -> dict[str, str | int]:
    """Ask again and again, until no answer comes any more."""
    answers = 0
    while await opens(host, port):
        answers += 1
        ctx.progress(0.5, f"{answers} answers")
        await asyncio.sleep(0.2)
    return {"answers": answers}
'''
)
LISTEN = '''
import asyncio
import socket

from milepost import Context, task


@task(id="listen")
async def main(ctx: Context, port: int) -> str:
    """Serve whoever gets through, until it is cancelled."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "0.0.0.0", port)
    ctx.progress(0.1, socket.gethostbyname(socket.gethostname()))
    await server.serve_forever()
    return "never"
'''
FROM_HERE = LOOK + "\nimport json, sys\nprint(json.dumps(asyncio.run(look(json.loads(sys.argv[1])))))"

Targets = Mapping[str, Sequence[str | int]]


def pod(name: str, image: str) -> Object:
    """A pod that is none of ours, with a web server on 8080."""
    container = {
        "name": "main",
        "image": image,
        "command": ["python3", "-m", "http.server", "8080"],
        "workingDir": "/tmp",
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def address(lab: Lab, name: str) -> str:
    """Its address, once it has one and is ready."""

    def look() -> str | None:
        status = dig(lab.kubectl.get("pod", name, lab.namespace), "status")
        ready = dig(status, "containerStatuses", 0, "ready")
        return str(dig(status, "podIP")) if ready else None

    return eventually(f"pod {name}", look, 40, diagnose=lab.diagnose)


def from_pod(lab: Lab, name: str, targets: Targets) -> dict[str, object]:
    """What a plain pod reaches."""
    said = lab.kubectl.execute(name, lab.namespace, "main", "python3", "-c", FROM_HERE, json.dumps(targets))
    found: dict[str, object] = json.loads(said)
    return found


def from_node(lab: Lab, pod: str, targets: Targets) -> dict[str, object]:
    """What the pod's node reaches: what its kubelet does, for a probe."""
    node = Nodes(lab.platform).number_of(lab.kubectl.get("pod", pod, lab.namespace))
    done: Result = lab.platform.cluster.node_exec(node, ["python3", "-c", FROM_HERE, json.dumps(targets)])
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def from_task(lab: Lab, task: str, targets: Targets) -> dict[str, object]:
    """What a run of a Task with the source TASK reaches."""
    run = lab.run(task, given=targets)
    run.wait("Succeeded")
    return run.result_members()
