"""The api processes: the production entry point, killed, stopped and started again."""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.apiserver import DIE_WITH_US, free_ports
from tests.chaos.config import API_TOKEN, APIS, BEAT, GLOBAL_LIMIT, GRACE, LEASE, NAMESPACE


class Apis:
    """Replicas by number; `ports[i]` stays theirs through restarts."""

    def __init__(self, home: Path, database_url: str, kubeconfig: Path) -> None:
        key, tokens = home / "session-key", home / "tokens"
        key.write_bytes(secrets.token_bytes(32))
        tokens.write_text(f"chaos:{NAMESPACE}:{API_TOKEN}\n")
        self._log = home
        ports = free_ports(2 * APIS)
        self.ports, self._side_ports = ports[:APIS], ports[APIS:]
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("MILEPOST_")} | {
            "MILEPOST_DATABASE_URL": database_url,
            "MILEPOST_SESSION_KEY_FILE": str(key),
            "MILEPOST_API_TOKEN_FILE": str(tokens),
            "MILEPOST_LEASE_SECONDS": str(LEASE),
            "MILEPOST_BEAT_SECONDS": str(BEAT),
            "MILEPOST_GRACE_SECONDS": str(GRACE),
            "MILEPOST_GLOBAL_CONCURRENCY": str(GLOBAL_LIMIT),
            "MILEPOST_LOG_LEVEL": "warning",
            "KUBECONFIG": str(kubeconfig),
        }
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._killed: set[int] = set()

    def start(self, number: int) -> None:
        """Start a replica; it may take a second until it serves."""
        self._killed.discard(number)
        wrap = DIE_WITH_US if shutil.which(DIE_WITH_US[0]) else ()
        env = self._env | {
            "MILEPOST_LISTEN_PORT": str(self.ports[number]),
            "MILEPOST_METRICS_PORT": str(self._side_ports[number]),
        }
        with (self._log / f"api-{number}.log").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [*wrap, sys.executable, "-m", "milepost_operator", "api"], env=env, stdout=log, stderr=log
            )

    async def ready(self, number: int, seconds: float = 120.0) -> None:
        """Wait until it takes connections. RuntimeError when it ended."""
        async with asyncio.timeout(seconds):
            while True:
                if self._processes[number].poll() is not None:
                    raise RuntimeError(f"api {number} ended; see api-{number}.log")
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.ports[number])
                except OSError:
                    await asyncio.sleep(0.1)
                else:
                    writer.close()
                    return

    async def kill(self, number: int) -> None:
        """KILL it, and reap it. It stays away until it is started."""
        self._killed.add(number)
        self._processes[number].kill()
        await asyncio.to_thread(self._processes[number].wait)

    def signal(self, number: int, name: signal.Signals) -> None:
        self._processes[number].send_signal(name)

    def died_by_themselves(self) -> list[int]:
        """Replicas that ended though nobody killed them."""
        ended = [number for number, process in self._processes.items() if process.poll() is not None]
        return [number for number in ended if number not in self._killed]

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
