"""The client for asyncio. One object serves any number of tasks of one loop."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from milepost.client import protocol
from milepost.client.errors import ApiError, WaitTimeoutError
from milepost.client.models import Chunk, Created, Decision, Run, RunSummary, Trigger, TriggerOptions, record
from milepost.net.client import Client
from milepost.net.messages import Reply, TransportError
from milepost.net.stream import Stream
from milepost.wire.values import JSON

KEEP: int = 16
"""Idle connections that are kept."""


class AsyncMilepost:
    """Calls to one API. `url`: https://host:port; `token`: or the variable MILEPOST_TOKEN; `ca`: a file with the CA.

    A call that the API can't take now (429, 503, no connection) is tried again as it asks, at most `tries` times and
    `patience` seconds. Errors are ApiErrors.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        ca: str | Path | None = None,
        tries: int = 5,
        patience: float = 30.0,
    ) -> None:
        self._address = protocol.address_of(url)
        self._token = protocol.token_of(token)
        self._tls = ssl.create_default_context(cafile=str(ca) if ca else None) if self._address.tls else None
        self._tries = tries
        self._patience = patience
        self._http = Client(self._dial, self._address.authority, KEEP)

    async def trigger(self, task: str, input: JSON = None, **options: Unpack[TriggerOptions]) -> Created:  # noqa: A002
        """Create a run, or get the one that the call's key already has."""
        call = protocol.trigger_call(self._address.base, Trigger(task, input, **options))
        made: Created = record(Created, await self._call(call))
        return made

    async def trigger_batch(self, triggers: Sequence[Trigger]) -> list[Created | ApiError]:
        """Create many runs, 1,000 in a transaction; per item its run, or why it was refused."""
        answers: list[Created | ApiError] = []
        for call in protocol.batch_calls(self._address.base, triggers):
            answers += protocol.batch_answers(call, await self._call(call))
        return answers

    async def get(self, run: str, *, namespace: str | None = None) -> Run:
        """One run by name or id."""
        return await self._run(protocol.run_call(self._address.base, run, namespace))

    async def wait(self, run: str, *, namespace: str | None = None, timeout: float | None = None) -> Run:  # noqa: ASYNC109
        """The run once it has ended, however it did. Raises WaitTimeoutError after `timeout` seconds."""
        deadline = protocol.Deadline(timeout)
        while True:
            left = deadline.left()
            found = await self._run(protocol.run_call(self._address.base, run, namespace, left))
            if found.ended:
                return found
            if left == 0:
                raise WaitTimeoutError(f"run {run} is {found.state} still; it goes on, wait again or cancel it")

    async def list(self, **filters: str) -> AsyncIterator[RunSummary]:
        """All runs that the filters (task, queue, state, tag, namespace, …) leave, newest first, page by page."""
        cursor: str | None = None
        while True:
            items, cursor = protocol.page_of(await self._call(protocol.list_call(self._address.base, filters, cursor)))
            for item in items:
                yield record(RunSummary, item)
            if cursor is None:
                return

    async def stream(self, run: str, *, namespace: str | None = None, after: int = 0) -> AsyncIterator[Chunk]:
        """What the run tells by `ctx.stream`, as it is told, to the run's end. `after`: a position, to go on from."""
        ended = False
        while not ended:
            call = protocol.stream_call(self._address.base, run, namespace, after)
            chunks, after, ended = protocol.stream_page(await self._call(call))
            for chunk in chunks:
                yield chunk

    async def cancel(self, run: str, *, namespace: str | None = None) -> Run:
        """Ask for the run's end; one that has ended stays as it is."""
        return await self._run(protocol.cancel_call(self._address.base, run, namespace))

    async def decide(self, run: str, decision: Decision, *, namespace: str | None = None) -> Run:
        """Let a run that is held for its changed code go on, or end. Raises an ApiError (409) if it waits for none."""
        return await self._run(protocol.decision_call(self._address.base, run, decision, namespace))

    async def close(self) -> None:
        """Close the idle connections."""
        self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: protocol.Call) -> Run:
        found: Run = record(Run, await self._call(call))
        if found.result_bytes is None:
            return found
        return replace(found, result=await self._call(protocol.result_call(self._address.base, found)))

    async def _call(self, call: protocol.Call) -> JSON:
        tries = protocol.Tries(call, self._tries, self._patience)
        while True:
            try:
                return tries.settled(await self._exchange(call, tries))
            except protocol.Again as again:
                await asyncio.sleep(again.seconds)

    async def _exchange(self, call: protocol.Call, tries: protocol.Tries) -> Reply:
        headers = protocol.headers_of(self._token, call)
        try:
            return await self._http.request(call.method, call.target, headers, call.body, call.seconds)
        except TransportError as error:
            raise tries.broken(str(error)) from error

    async def _dial(self) -> Stream:
        return await Stream.tcp(self._address.host, self._address.port, self._tls)
