"""Passes an async task's progress on in the background: the newest only, one request at a time."""

import asyncio
import logging

from milepost.errors import MilepostError
from milepost.net.messages import compact
from milepost.sdk import local
from milepost.sdk.client import AsyncSidecar


class ProgressSender:
    """Takes progress from any thread."""

    def __init__(self, sidecar: AsyncSidecar, log: "logging.LoggerAdapter[logging.Logger]") -> None:
        self._sidecar = sidecar
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._newest: bytes | None = None
        self._sender: asyncio.Task[None] | None = None

    def tell(self, fraction: float | None, message: str | None) -> None:
        """Have it passed on, unless newer progress comes first."""
        self._newest = compact({"fraction": fraction, "message": message})
        self._loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        if self._sender is None or self._sender.done():
            # not by the loop's factory: it is no branch of the task
            self._sender = asyncio.Task(self._pass_on(), loop=self._loop)

    async def _pass_on(self) -> None:
        while (body := self._newest) is not None:
            self._newest = None
            try:
                await self._sidecar.call("PUT", "/v1/progress", local.write_headers(), body)
            except MilepostError as error:
                self._log.warning("progress was not passed on: %s", error)
