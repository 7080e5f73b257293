"""The database under test: a small file system of its own that can be filled, and a clock that can be set back."""

import asyncio
import os
import platform
import shutil
import signal
import subprocess
import time
from pathlib import Path

import asyncpg

from milepost_operator.adapters.postgres.migrate import migrate
from milepost_operator.settings import Settings
from tests.chaos.history import install_audit
from tests.postgres import Postgres

TMPFS_MIB = 768
FULL_SECONDS = 15.0
CONFIG = {
    "shared_buffers": "64MB",
    "max_connections": 120,
    "max_wal_size": "96MB",
    "min_wal_size": "32MB",
    "checkpoint_timeout": "30s",
    "checkpoint_completion_target": 0.5,
    "log_min_messages": "warning",
    "restart_after_crash": "on",
}
NOW = -0.000001
"""libfaketime takes an offset of nothing for no change."""


class Database:
    """Postgres with `fsync` on. `mounted`: its directory is a tmpfs; `fake_clock`: its clock obeys us."""

    def __init__(self, home: Path, faketime: Path | None, *, mounted: bool) -> None:
        self.mounted = mounted
        self.fake_clock = faketime is not None
        self._disk = home / "disk"
        self._offset = home / "clock"
        self._set_offset(NOW)
        env = {}
        if faketime is not None:
            env = {
                "LD_PRELOAD": str(faketime),
                "FAKETIME_TIMESTAMP_FILE": str(self._offset),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        self._server = Postgres(self._disk / "pg", CONFIG, env)
        self._up = asyncio.Event()
        self._wanted = False

    @property
    def url(self) -> str:
        return self._server.url("milepost")

    async def create(self) -> None:
        """Make the data directory, start, migrate, install the audit."""
        self._disk.mkdir()
        if self.mounted:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m,mode=755", "tmpfs", self._disk]
            subprocess.run(mount, check=True)  # noqa: ASYNC221
        self._server.home.mkdir()
        self._server.create()
        await self._server.start()
        admin = await asyncpg.connect(self._server.url())
        await admin.execute("create database milepost")
        await admin.close()
        await migrate(Settings(database_url=self.url))
        connection = await self.connect()
        await install_audit(connection)
        await connection.close()
        self._wanted = True
        self._up.set()

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection of the conductor's own. Raises what asyncpg raises while the database is down."""
        return await asyncpg.connect(self.url, timeout=3, server_settings={"application_name": "chaos"})

    async def supervise(self) -> None:
        """Start it again whenever it ended by itself, as the kubelet would."""
        while True:
            await asyncio.sleep(0.2)
            if self._wanted and self._server.pid is None:
                self._server.spawn()
                await asyncio.sleep(0.5)

    async def crash(self, down_seconds: float) -> None:
        """Stop at once, as in a crash, and start again after a while."""
        self._wanted = False
        try:
            await self._server.stop(signal.SIGQUIT)
            await asyncio.sleep(down_seconds)
            self._server.spawn()
        finally:
            self._wanted = True
        await self.answering()

    async def answering(self, seconds: float = 60.0) -> None:
        """Wait for it. TimeoutError with what it said last and what its processes wait in."""
        try:
            async with asyncio.timeout(seconds):
                while not await self._server.answers():  # noqa: ASYNC110  it tells nobody
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            listed = ["ps", "--ppid", str(self._server.pid), "-o", "pid,stat,wchan:32,args"]
            waits = subprocess.run(listed, capture_output=True, text=True, check=False).stdout  # noqa: ASYNC221
            told = f"Postgres does not answer within {seconds:.0f} s:\n{self.last_words()}\n{waits}"
            raise TimeoutError(told) from error

    async def fill_disk(self, seconds: float) -> int:
        """Leave no byte free for some seconds, and until Postgres has complained; returns how often it did."""
        before = self.complaints()
        filler = self._disk / "filler"
        try:
            began = time.monotonic()
            with filler.open("ab", buffering=0) as file:
                while (lasted := time.monotonic() - began) < seconds or (
                    lasted < FULL_SECONDS and self.complaints() == before
                ):
                    free = os.statvfs(self._disk)
                    size = free.f_bavail * free.f_frsize
                    if size:
                        try:
                            os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
                            file.seek(0, os.SEEK_END)
                        except OSError:  # it was taken meanwhile
                            await asyncio.sleep(0)
                    await asyncio.sleep(0.02)
        finally:
            filler.unlink(missing_ok=True)
        await self.answering()
        return self.complaints() - before

    def complaints(self) -> int:
        return self._server.log.read_text(errors="replace").count("No space left on device")

    async def shift_clock(self, back_seconds: float, for_seconds: float) -> None:
        """Set its clock back, and right again after a while."""
        try:
            self._set_offset(-back_seconds)
            await asyncio.sleep(for_seconds)
        finally:
            self._set_offset(NOW)

    def _set_offset(self, seconds: float) -> None:
        fresh = self._offset.with_suffix(".new")
        fresh.write_text(f"{seconds:.6f}\n")
        fresh.rename(self._offset)

    async def stop(self) -> None:
        self._wanted = False
        await self._server.stop(signal.SIGQUIT)
        if self.mounted:
            subprocess.run(["umount", self._disk], check=False)  # noqa: ASYNC221

    def last_words(self) -> str:
        return self._server.last_words()


def find_faketime(cache: Path) -> Path | None:
    """libfaketime as installed, or unpacked from Debian's package of it; None where it can't be had."""
    name = "libfaketime.so.1"
    triplet = f"{platform.machine()}-linux-gnu"
    places = [Path(p) / "faketime" / name for p in (f"/usr/lib/{triplet}", "/usr/lib64", "/usr/lib")]
    places.append(cache / "usr" / "lib" / triplet / "faketime" / name)
    for place in places:
        if place.is_file():
            return place
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return None
    cache.mkdir(parents=True, exist_ok=True)
    got = subprocess.run(["apt-get", "download", "libfaketime"], cwd=cache, capture_output=True, check=False)
    for package in cache.glob("libfaketime_*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, cache], check=False)
    return places[-1] if got.returncode == 0 and places[-1].is_file() else None
