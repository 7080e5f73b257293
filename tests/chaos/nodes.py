"""The processes that simulated pods live in, as the conductor sees them."""

import asyncio
import json
import shutil
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.apiserver import DIE_WITH_US
from tests.chaos.config import HOSTS, PODS


@dataclass(eq=False)
class Node:
    """`pods`: those that live here, `at_work`: the run of those that started. `stopped`: by SIGSTOP."""

    process: asyncio.subprocess.Process
    pods: set[str] = field(default_factory=set)
    at_work: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    held_back: list[str] = field(default_factory=list)

    def order(self, order: str, pod_id: str) -> None:
        line = json.dumps({"order": order, "pod": pod_id})
        if self.stopped:  # a node that can't be reached gets no orders
            self.held_back.append(line)
        else:
            self._send(line)

    def catch_up(self) -> None:
        for line in self.held_back:
            self._send(line)
        self.held_back.clear()

    def _send(self, line: str) -> None:
        if self.process.stdin is not None and not self.process.stdin.is_closing():
            self.process.stdin.write(line.encode() + b"\n")


class Nodes:
    """All nodes. A node that was killed is replaced by a fresh one."""

    def __init__(self, home: Path, port: int) -> None:
        self._home = home
        self._port = port
        self._count = 0
        self._readers: set[asyncio.Task[None]] = set()
        self.nodes: list[Node] = []
        self.gone: dict[str, bool] = {}
        """Pods whose end is known, and whether they had settled."""
        self.settled = 0

    async def start(self) -> None:
        for _ in range(HOSTS):
            self.nodes.append(await self._spawn())

    async def _spawn(self) -> Node:
        self._count += 1
        wrap = DIE_WITH_US if shutil.which(DIE_WITH_US[0]) else ()
        journal = self._home / f"node-{self._count}.journal"
        command = [*wrap, sys.executable, "-m", "tests.chaos.pods", str(self._port), str(journal)]
        with (self._home / f"node-{self._count}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        node = Node(process)
        self._readers.add(asyncio.create_task(self._listen(node)))
        return node

    async def _listen(self, node: Node) -> None:
        assert node.process.stdout is not None
        while line := await node.process.stdout.readline():
            news = json.loads(line)
            if news["news"] == "at-work":
                node.at_work[news["pod"]] = news["run"]
            else:
                self._ended(node, news["pod"], settled=news["settled"])
        for pod_id in list(node.pods):  # it died with all its pods
            self._ended(node, pod_id, settled=False)

    def _ended(self, node: Node, pod_id: str, *, settled: bool) -> None:
        node.pods.discard(pod_id)
        node.at_work.pop(pod_id, None)
        self.gone[pod_id] = settled
        self.settled += settled

    @property
    def room(self) -> int:
        """Pods that can be started now: those of nodes that can't be reached do not count as ours any more."""
        return PODS - sum(len(node.pods) for node in self.nodes if not node.stopped)

    @property
    def at_work(self) -> int:
        """Runs whose attempt has started and has not ended, as far as is known."""
        return sum(len(node.at_work) for node in self.nodes)

    def launch(self, pod_id: str) -> None:
        reachable = [node for node in self.nodes if not node.stopped] or self.nodes
        node = min(reachable, key=lambda n: len(n.pods))
        node.pods.add(pod_id)
        node.order("start", pod_id)

    def delete(self, pod_id: str) -> bool:
        """Kill a pod. True when it is gone, or its node can't be asked and it counts as gone."""
        for node in self.nodes:
            if pod_id in node.pods:
                node.order("kill", pod_id)
                return node.stopped
        return True

    async def kill(self, node: Node) -> None:
        self.nodes.remove(node)  # nothing is launched here any more
        node.process.kill()
        await node.process.wait()
        self.nodes.append(await self._spawn())

    async def freeze(self, node: Node, seconds: float, zombie_seconds: float = 2.5) -> None:
        """Stop a node past its leases; after it wakes, its pods go on for a while before anyone can end them."""
        node.stopped = True
        node.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            node.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(zombie_seconds)
        node.stopped = False
        node.catch_up()

    async def stop(self) -> None:
        for node in self.nodes:
            if node.process.returncode is None:
                node.process.kill()
            await node.process.wait()
        await asyncio.gather(*self._readers, return_exceptions=True)
