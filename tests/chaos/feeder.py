"""Triggers runs over HTTP, each under an idempotency key, until it has an answer; remembers what was acknowledged."""

import asyncio
import random
from typing import Any

from milepost.net.client import Client
from milepost.net.messages import Reply, TransportError, compact
from milepost.net.stream import Stream
from tests.chaos.config import API_TOKEN, KEYS, MISSING_TASK, TASKS
from tests.chaos.history import Journal

SENDERS = 6
PATIENCE_SECONDS = 5.0
HEADERS = [("Authorization", f"Bearer {API_TOKEN}"), ("Content-Type", "application/json")]


class Feeder:
    """`live`: runs not ended, as the monitor last saw them."""

    def __init__(self, seed: int, port: int, backlog: int, journal: Journal) -> None:
        self._rng = random.Random(f"{seed}:feeder")
        self._port = port
        self._backlog = backlog
        self._journal = journal
        self._number = 0
        self._stopping = False
        self.live = 0
        self.acknowledged = 0
        self.refused: list[str] = []

    async def run(self) -> None:
        """Send until `stop`; what is under way then is brought to its answer."""
        async with asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(self._send())

    def stop(self) -> None:
        self._stopping = True

    async def _send(self) -> None:
        client = Client(lambda: Stream.tcp("127.0.0.1", self._port, None), "127.0.0.1")
        while not self._stopping:
            if self.live >= self._backlog:
                await asyncio.sleep(0.1)
                continue
            if self._rng.random() < 0.05:
                await self._batch(client, [self._next() for _ in range(self._rng.randint(2, 8))])
            else:
                await self._one(client, self._next())
        client.close()

    def _next(self) -> dict[str, Any]:
        rng, self._number = self._rng, self._number + 1
        self.live += 1  # until the monitor counts it
        plan: dict[str, Any] = {"n": self._number, "steps": rng.randint(2, 6), "seconds": rng.uniform(0.1, 0.5)}
        if rng.random() < 0.1:
            plan["failures"] = rng.choice([1, 1, 2, 9])
        if rng.random() < 0.06:
            plan["crash_at"] = rng.randint(0, 1)
        body = {
            "task": MISSING_TASK if rng.random() < 0.01 else rng.choice(list(TASKS)),
            "input": plan,
            "idempotencyKey": f"key-{self._number}",
            "concurrencyKey": rng.choice(KEYS),
            "priority": rng.choice([-10, 0, 0, 10]),
            "tags": ["chaos"],
        }
        return body | ({"delaySeconds": rng.uniform(0.1, 2.0)} if rng.random() < 0.1 else {})

    async def _one(self, client: Client, trigger: dict[str, Any]) -> None:
        """Sometimes the same twice; sometimes it is cancelled again."""
        for _ in range(2 if self._rng.random() < 0.1 else 1):
            reply = await self._until_answered(client, "/v1/runs", compact(trigger))
            if not self._acknowledge(trigger, reply.status, reply.json()):
                return
        self.acknowledged += 1
        if self._rng.random() < 0.04:
            await asyncio.sleep(self._rng.uniform(0.2, 3.0))
            run: Any = reply.json()
            reply = await self._until_answered(client, f"/v1/runs/{run['id']}/cancel", b"{}")
            self._journal.write("cancel", run=run["id"], status=reply.status)

    async def _batch(self, client: Client, triggers: list[dict[str, Any]]) -> None:
        reply = await self._until_answered(client, "/v1/runs/batch", compact({"items": triggers}))
        answer: Any = reply.json()
        if reply.status != 200:
            self.refused.append(f"batch: {reply.status} {reply.body[:200]!r}")
            return
        for trigger, item in zip(triggers, answer["items"], strict=True):
            self.acknowledged += self._acknowledge(trigger, item["status"], item.get("run"))

    def _acknowledge(self, trigger: dict[str, Any], status: int, run: Any) -> bool:
        key = trigger["idempotencyKey"]
        if status not in {200, 201}:
            self.refused.append(f"{key}: {status} {run}")
            return False
        self._journal.write("trigger", key=key, run=run["id"], task=trigger["task"])
        return True

    async def _until_answered(self, client: Client, path: str, body: bytes) -> Reply:
        while True:
            try:
                reply = await client.request("POST", path, HEADERS, body, PATIENCE_SECONDS)
            except TransportError:
                await asyncio.sleep(0.1)
                continue
            if reply.status < 500 and reply.status != 429:
                return reply
            await asyncio.sleep(min(reply.retry_after or 0.2, 1.0))
