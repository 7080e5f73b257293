"""Triggers runs over HTTP, each under an idempotency key, until it has an answer; remembers what was acknowledged."""

import asyncio
import random
from typing import Any

from milepost.net.client import Client
from milepost.net.messages import Reply, TransportError, compact
from tests.chaos.config import API_TOKEN, MISSING_TASK, TASKS
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
        client = Client(lambda: asyncio.open_connection("127.0.0.1", self._port), "127.0.0.1")
        while not self._stopping:
            if self.live >= self._backlog:
                await asyncio.sleep(0.1)
                continue
            self.live += 1  # until the monitor counts it
            await self._trigger(client, *self._next())
        client.close()

    def _next(self) -> tuple[str, dict[str, Any], float | None, bool]:
        rng, self._number = self._rng, self._number + 1
        kind = rng.random()
        task = MISSING_TASK if kind < 0.01 else rng.choice(list(TASKS))
        plan: dict[str, Any] = {"n": self._number, "steps": rng.randint(2, 6), "seconds": rng.uniform(0.1, 0.5)}
        if rng.random() < 0.1:
            plan["failures"] = rng.choice([1, 1, 2, 9])
        if rng.random() < 0.06:
            plan["crash_at"] = rng.randint(0, 1)
        cancel_after = rng.uniform(0.2, 3.0) if rng.random() < 0.04 else None
        return task, plan, cancel_after, rng.random() < 0.1

    async def _trigger(
        self, client: Client, task: str, plan: dict[str, Any], cancel_after: float | None, twice: bool
    ) -> None:
        key = f"key-{plan['n']}"
        body = compact({"task": task, "input": plan, "idempotencyKey": key, "tags": ["chaos"]})
        for _ in range(2 if twice else 1):
            reply = await self._until_answered(client, "/v1/runs", body)
            if reply.status not in {200, 201}:
                self.refused.append(f"{key}: {reply.status} {reply.body[:200]!r}")
                return
            run = reply.json()["id"]  # type: ignore[call-overload,index]
            self._journal.write("trigger", key=key, run=run, task=task)
        self.acknowledged += 1
        if cancel_after is not None:
            await asyncio.sleep(cancel_after)
            reply = await self._until_answered(client, f"/v1/runs/{run}/cancel", b"{}")
            self._journal.write("cancel", run=run, status=reply.status)

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
