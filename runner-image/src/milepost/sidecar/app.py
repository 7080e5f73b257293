"""Puts the sidecar together and runs it until SIGTERM."""

import asyncio
import gc
import os
import signal
from typing import Final

from milepost.net.server import Budget, ServerConnection
from milepost.sidecar.bases import Bases
from milepost.sidecar.decode import BadAnswerError, build_start
from milepost.sidecar.forward import Forwarder
from milepost.sidecar.heartbeat import Heart
from milepost.sidecar.log import log
from milepost.sidecar.memory import give_back_early
from milepost.sidecar.records import Reader
from milepost.sidecar.routes import Routes
from milepost.sidecar.session import Api, SessionRefusedError, StoppedError
from milepost.sidecar.settings import Settings, SettingsError
from milepost.sidecar.settle import Settler
from milepost.sidecar.state import AttemptState
from milepost.wire.local import EXIT_CONFIG

SPOOL_BYTES: Final = 8 * 1024 * 1024
LEAVE_SECONDS: Final = 2.0
RESTART_SECONDS: Final = 2.0
OK: Final = 200
EXIT_BUG: Final = 70
DEFINITE: Final = frozenset({403, 404, 409, 410})


class Sidecar:
    """One sidecar: serves the socket from its start, so that the runner finds it however early it looks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.state = AttemptState()
        self._api = Api(settings, self.state.stopped)
        bases = Bases()
        self._forwarder = Forwarder(self._api, self.state, bases)
        self._settler = Settler(self._api, self.state, self._forwarder)
        self._routes = Routes(self.state, self._forwarder, Reader(self._api, self.state, bases), self._settler)
        self._budget = Budget(SPOOL_BYTES)

    async def run(self, leave: asyncio.Event) -> None:
        """Serve until `leave` is set; a settling under way is given two seconds."""
        # it appears under its name only once it listens: whoever sees it can connect
        unready = f"{self._settings.socket}.new"
        server = await asyncio.start_unix_server(self._connected, unready)
        os.replace(unready, self._settings.socket)  # noqa: PTH105  # one system call, no thread for it
        duties = [
            asyncio.ensure_future(duty)
            for duty in (self._begin(), self._forwarder.run(), Heart(self._api, self.state).run())
        ]
        for duty in duties:
            duty.add_done_callback(self._duty_done)
        give_back_early()
        gc.freeze()  # modules and ourselves stay: no collection need walk them while a step waits
        log("listening", socket=self._settings.socket, pod=self._settings.pod_id)
        try:
            await leave.wait()
            await asyncio.wait_for(self._settler.finish(), LEAVE_SECONDS)
        except TimeoutError:
            log("left-while-settling")
        finally:
            server.close()
            for duty in duties:
                duty.cancel()
            await asyncio.gather(*duties, return_exceptions=True)
            self._api.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ServerConnection(self._routes, self._budget, reader, writer).serve()

    async def _begin(self) -> None:
        while True:
            try:
                reply = await self._api.call("POST", "/start")
                if reply.status == OK:
                    start = build_start(reply.json())
                    log("started", run=start.run_id, attempt=start.attempt, cause=start.cause)
                    await self.state.began(start)
                    return
                problem = reply.problem()
                if reply.status in DEFINITE:
                    why = problem.get("detail") or "the api does not let this pod start"
                    await self.state.stop(f"{problem.get('code') or reply.status}: {why}")
                    return
                log("start-refused", status=reply.status, detail=problem.get("detail"))
            except (StoppedError, SessionRefusedError) as error:
                await self.state.stop(str(error))
                return
            except (BadAnswerError, ValueError) as error:
                log("bad-answer", route="/start", error=str(error))
            await asyncio.sleep(RESTART_SECONDS)

    def _duty_done(self, duty: asyncio.Future[None]) -> None:
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
