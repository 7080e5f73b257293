"""All that the sidecar has of one attempt, made anew for each.

A connection belongs to the attempt under which it was opened: what a process of an earlier attempt still writes meets
that attempt's end, and never the next one's state.
"""

import asyncio
from collections.abc import Callable

from milepost.net.server import Budget, ServerConnection
from milepost.net.stream import Stream
from milepost.sidecar.bases import Bases
from milepost.sidecar.calls import Calls
from milepost.sidecar.forward import Forwarder
from milepost.sidecar.heartbeat import Heart
from milepost.sidecar.objects import Uploader
from milepost.sidecar.records import Reader
from milepost.sidecar.routes import PodSide, Routes
from milepost.sidecar.session import Api
from milepost.sidecar.settle import Settler
from milepost.sidecar.state import AttemptState


class Tenure:
    """One attempt's state, and who serves it."""

    def __init__(self, api: Api, budget: Budget, pod: PodSide) -> None:
        self.state = AttemptState()
        self.calls = Calls(api, self.state.stopped)
        bases = Bases()
        self.forwarder = Forwarder(self.calls, self.state, bases)
        self.settler = Settler(self.calls, self.state, self.forwarder)
        reader = Reader(self.calls, self.state, bases)
        uploader = Uploader(self.calls, self.state)
        self._routes = Routes(self.state, self.forwarder, uploader, reader, self.settler, pod)
        self._budget = budget
        self._heart = Heart(api, self.state)
        self._duties: list[asyncio.Task[None]] = []

    def work(self, died: Callable[["asyncio.Task[None]"], None]) -> None:
        """Forward records and keep the lease from now on. `died` hears of a duty that ends."""
        for duty in (self.forwarder.run(), self._heart.run()):
            task = asyncio.get_running_loop().create_task(duty)
            task.add_done_callback(died)
            self._duties.append(task)

    async def serve(self, stream: Stream) -> None:
        """Serve a connection to its end."""
        await ServerConnection(self._routes, self._budget, stream).serve()

    async def end(self) -> None:
        """Do nothing more for the attempt."""
        for duty in self._duties:
            duty.cancel()
        await asyncio.gather(*self._duties, return_exceptions=True)
