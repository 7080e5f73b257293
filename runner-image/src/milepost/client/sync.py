"""The client for plain code. One object may be shared by threads: each has a connection of its own."""

import http.client
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from milepost.client import protocol
from milepost.client.errors import ApiError, WaitTimeoutError
from milepost.client.models import Chunk, Created, Decision, Run, RunSummary, Trigger, TriggerOptions, record
from milepost.net.messages import Reply
from milepost.wire.values import JSON


class Milepost:
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
        self._local = threading.local()

    def trigger(self, task: str, input: JSON = None, **options: Unpack[TriggerOptions]) -> Created:  # noqa: A002
        """Create a run, or get the one that the call's key already has."""
        return self._created(protocol.trigger_call(self._address.base, Trigger(task, input, **options)))

    def trigger_batch(self, triggers: Sequence[Trigger]) -> list[Created | ApiError]:
        """Create many runs, 1,000 in a transaction; per item its run, or why it was refused."""
        answers: list[Created | ApiError] = []
        for call in protocol.batch_calls(self._address.base, triggers):
            answers += protocol.batch_answers(call, self._call(call))
        return answers

    def get(self, run: str, *, namespace: str | None = None) -> Run:
        """One run by name or id."""
        return self._run(protocol.run_call(self._address.base, run, namespace))

    def wait(self, run: str, *, namespace: str | None = None, timeout: float | None = None) -> Run:
        """The run once it has ended, however it did. Raises WaitTimeoutError after `timeout` seconds."""
        deadline = protocol.Deadline(timeout)
        while True:
            left = deadline.left()
            found = self._run(protocol.run_call(self._address.base, run, namespace, left))
            if found.ended:
                return found
            if left == 0:
                raise WaitTimeoutError(f"run {run} is {found.state} still; it goes on, wait again or cancel it")

    def list(self, **filters: str) -> Iterator[RunSummary]:
        """All runs that the filters (task, queue, state, tag, namespace, …) leave, newest first, page by page."""
        cursor: str | None = None
        while True:
            items, cursor = protocol.page_of(self._call(protocol.list_call(self._address.base, filters, cursor)))
            for item in items:
                yield record(RunSummary, item)
            if cursor is None:
                return

    def stream(self, run: str, *, namespace: str | None = None, after: int = 0) -> Iterator[Chunk]:
        """What the run tells by `ctx.stream`, as it is told, to the run's end. `after`: a position, to go on from."""
        ended = False
        while not ended:
            call = protocol.stream_call(self._address.base, run, namespace, after)
            chunks, after, ended = protocol.stream_page(self._call(call))
            yield from chunks

    def cancel(self, run: str, *, namespace: str | None = None) -> Run:
        """Ask for the run's end; one that has ended stays as it is."""
        return self._run(protocol.cancel_call(self._address.base, run, namespace))

    def decide(self, run: str, decision: Decision, *, namespace: str | None = None) -> Run:
        """Let a run that is held for its changed code go on, or end. Raises an ApiError (409) if it waits for none."""
        return self._run(protocol.decision_call(self._address.base, run, decision, namespace))

    def close(self) -> None:
        """Close this thread's connection; the next call opens another."""
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _created(self, call: protocol.Call) -> Created:
        made: Created = record(Created, self._call(call))
        return made

    def _run(self, call: protocol.Call) -> Run:
        found: Run = record(Run, self._call(call))
        if found.result_bytes is None:
            return found
        return replace(found, result=self._call(protocol.result_call(self._address.base, found)))

    def _call(self, call: protocol.Call) -> JSON:
        tries = protocol.Tries(call, self._tries, self._patience)
        while True:
            try:
                return tries.settled(self._exchange(call, tries))
            except protocol.Again as again:
                time.sleep(again.seconds)

    def _exchange(self, call: protocol.Call, tries: protocol.Tries) -> Reply:
        try:
            connection = self._connection(call.seconds)
            headers = dict(protocol.headers_of(self._token, call))
            connection.request(call.method, call.target, call.body or None, headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise tries.broken(str(error) or type(error).__name__) from error
        except BaseException:
            self.close()
            raise
        if response.will_close:
            self.close()
        return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, body)

    def _connection(self, seconds: float) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            where = self._address
            if self._tls is None:
                connection = http.client.HTTPConnection(where.host, where.port, timeout=seconds)
            else:
                connection = http.client.HTTPSConnection(where.host, where.port, timeout=seconds, context=self._tls)
            self._local.connection = connection
        connection.timeout = seconds
        if connection.sock is not None:
            connection.sock.settimeout(seconds)
        return connection
