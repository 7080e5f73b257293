"""Runs that come when they come: an open loop, which no slow answer holds up."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from queue import SimpleQueue

from e2e.harness.api import Line
from e2e.harness.lab import Lab

LINES = 8
CREATED = {HTTPStatus.CREATED, HTTPStatus.OK}


def moments(rate: float, count: int, seed: int) -> Iterator[float]:
    """Seconds from the beginning at which each comes: independent of each other, `rate` of them a second on average."""
    chance, at = random.Random(seed), 0.0
    for _ in range(count):
        yield at
        at += chance.expovariate(rate)


def trigger(lab: Lab, task: str, names: Sequence[str], rate: float, seed: int = 1) -> list[float]:
    """Create a run of each name over HTTP in an open loop.

    Returns:
        How many seconds after its moment each was sent: what this side itself was late by.

    Raises:
        RuntimeError: one was refused.
    """
    lines: SimpleQueue[Line] = SimpleQueue()
    for _ in range(LINES):
        lines.put(lab.release.api.line())
    begun = time.monotonic()
    late: list[float] = []

    def send(name: str, moment: float) -> None:
        line = lines.get()
        try:
            late.append(time.monotonic() - begun - moment)
            body = {"task": task, "namespace": lab.namespace, "name": name}
            answer = line.call("POST", "/v1/runs", body)
        finally:
            lines.put(line)
        if answer.status not in CREATED:
            raise RuntimeError(f"run {name} was answered {answer.status}: {answer.body.decode()[:500]}")

    _play(send, names, list(moments(rate, len(names), seed)), begun)
    while not lines.empty():
        lines.get().close()
    return late


def _play(send: Callable[[str, float], None], names: Sequence[str], at: Sequence[float], begun: float) -> None:
    with ThreadPoolExecutor(LINES) as pool:
        sent = []
        for name, moment in zip(names, at, strict=True):
            time.sleep(max(0.0, begun + moment - time.monotonic()))
            sent.append(pool.submit(send, name, moment))
        for one in sent:
            one.result()
