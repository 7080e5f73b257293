"""Puts the sidecar together and runs it until SIGTERM."""

import asyncio
import gc
import os
import signal
from collections.abc import Coroutine
from typing import Any, Final

from milepost.net.listen import Listener
from milepost.net.server import Budget
from milepost.net.stream import Stream
from milepost.sidecar.begin import NoAttemptYetError, NotStartedError, begin, code_of
from milepost.sidecar.calls import StoppedError
from milepost.sidecar.handover import HandOver
from milepost.sidecar.log import log
from milepost.sidecar.memory import give_back_early
from milepost.sidecar.session import Api, SessionRefusedError
from milepost.sidecar.settings import Settings, SettingsError
from milepost.sidecar.tenure import Tenure
from milepost.wire.local import EXIT_CONFIG
from milepost.wire.pod import Start

SPOOL_BYTES: Final = 8 * 1024 * 1024
LEAVE_SECONDS: Final = 2.0
EXIT_BUG: Final = 70


class Sidecar:
    """One sidecar: serves the socket from its start, so that the runner finds it however early it looks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._api = Api(settings)
        self._budget = Budget(SPOOL_BYTES)
        self._handover = HandOver(self._api, lambda: self.tenure, self._enter)
        self.tenure = self._new_tenure()

    async def run(self, leave: asyncio.Event) -> None:
        """Serve until `leave` is set; a settling under way is given two seconds."""
        # it appears under its name only once it listens: whoever sees it can connect
        unready = f"{self._settings.socket}.new"
        server = Listener(unready, self._connected)
        os.replace(unready, self._settings.socket)  # noqa: PTH105  # one system call, no thread for it
        beginning = asyncio.get_running_loop().create_task(self.begin())
        beginning.add_done_callback(_duty_done)
        give_back_early()
        gc.freeze()  # modules and ourselves stay: no collection need walk them while a step waits
        log("listening", socket=self._settings.socket, pod=self._settings.pod_id)
        try:
            await leave.wait()
            await asyncio.wait_for(self.tenure.settler.finish(), LEAVE_SECONDS)
        except TimeoutError:
            log("left-while-settling")
        finally:
            server.close()
            beginning.cancel()
            await asyncio.gather(beginning, return_exceptions=True)
            await self.end()

    async def begin(self) -> None:
        """Start the attempt that is reserved to the pod, or have it made ready for one, or the task told to stop."""
        tenure = self.tenure
        tenure.work(_duty_done)
        try:
            try:
                await tenure.state.began(await begin(tenure.calls))
            except NoAttemptYetError:
                await tenure.state.prepares(await code_of(tenure.calls))
        except (NotStartedError, StoppedError, SessionRefusedError) as error:
            await tenure.state.stop(str(error))

    async def end(self) -> None:
        """End all work, and close the connections to the api."""
        await self._handover.end()
        await self.tenure.end()
        self._api.close()

    def _new_tenure(self) -> Tenure:
        return Tenure(self._api, self._budget, self._handover)

    async def _enter(self, start: Start) -> None:
        before, self.tenure = self.tenure, self._new_tenure()
        self.tenure.work(_duty_done)
        await self.tenure.state.began(start)
        await before.end()

    def _connected(self, stream: Stream) -> Coroutine[Any, Any, None]:
        # no coroutine itself: the attempt is that of the moment in which the connection is taken, not of a later one
        return self.tenure.serve(stream)


def _duty_done(duty: "asyncio.Task[None]") -> None:
    # A duty that dies of a bug of ours would leave the task waiting: end, and be started again by the kubelet
    if not duty.cancelled() and (error := duty.exception()) is not None:
        log("duty-failed", error=f"{type(error).__name__}: {error}")
        os._exit(EXIT_BUG)


async def _serve(settings: Settings) -> None:
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave.set)
    await Sidecar(settings).run(leave)
    log("left")


def main() -> int:
    """Run the sidecar; its exit code."""
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as error:
        log("bad-settings", error=str(error))
        return EXIT_CONFIG
    os.umask(0o117)  # the socket: its user and the pod's shared group
    asyncio.run(_serve(settings))
    return 0
