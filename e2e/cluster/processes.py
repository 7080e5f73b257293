"""Daemons that outlive us: started detached, found again by pid and start time, stopped until they are really gone."""

import hashlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.shell import Problem, wait_until

# Daemons see nothing of the shell that started them: no proxies, no credentials, the same from any checkout.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}


def inheritable() -> list[int]:
    """Descriptors that a child would get beside the standard ones: it would hold a lock of whoever started us for as
    long as it lives.
    """
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        descriptor = int(entry.name)
        try:
            if descriptor > 2 and os.get_inheritable(descriptor):
                found.append(descriptor)
        except OSError:
            continue  # that of this very listing
    return found


@dataclass(frozen=True)
class Daemon:
    """A process known by `<run>/<name>.pid`; its output goes to `<log>/<name>.log`."""

    name: str
    run: Path
    log: Path

    @property
    def pidfile(self) -> Path:
        return self.run / f"{self.name}.pid"

    def pid(self) -> int | None:
        """The process id when the very process we started still runs."""
        known = self._known()
        return known["pid"] if known and started_at(known["pid"]) == known["started"] else None

    def ensure(
        self, argv: Sequence[str | Path], env: Mapping[str, str] | None = None, config: Sequence[Path] = ()
    ) -> bool:
        """Start it unless it runs with this very command line and `config` files already; true when it was started."""
        words = [str(word) for word in argv]
        facts = [words, dict(env or {}), [file.read_text() for file in config]]
        recipe = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        if self.pid() is not None:
            if json.loads(self.pidfile.read_text())["recipe"] == recipe:
                return False
            self.stop()
        self._end_orphans()
        self.run.mkdir(parents=True, exist_ok=True)
        self.log.mkdir(parents=True, exist_ok=True)
        output = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.log / f"{self.name}.log"), output, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in inheritable()),
        ]
        # A session of its own: Ctrl-C in the terminal that ran `up` must not reach it.
        pid = os.posix_spawnp(words[0], words, {**ENVIRONMENT, **(env or {})}, file_actions=actions, setsid=True)
        self.pidfile.write_text(json.dumps({"pid": pid, "started": started_at(pid) or 0, "recipe": recipe}))
        return True

    def _end_orphans(self) -> None:
        """Kill what a killed leader left of its process group."""
        known = self._known()
        if known and started_at(known["pid"]) is None and _group_lives(known["pid"]):
            _signal_group(known["pid"], signal.SIGKILL)

    def _known(self) -> dict[str, int] | None:
        try:
            facts = json.loads(self.pidfile.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return {key: int(facts[key]) for key in ("pid", "started")}

    def stop(self, patience: float = 10) -> None:
        """TERM to its process group, KILL when that did not help in `patience` seconds; returns when it is gone."""
        pid = self.pid()
        if pid is not None:
            _signal_group(pid, signal.SIGTERM)
            try:
                wait_until(f"the end of {self.name}", lambda: not _group_lives(pid), patience, 0.05)
            except Problem:
                self.kill()
        self._end_orphans()
        self.pidfile.unlink(missing_ok=True)

    def kill(self) -> None:
        """KILL, as a crash would."""
        pid = self.pid()
        if pid is not None:
            _signal_group(pid, signal.SIGKILL)
            wait_until(f"the end of {self.name}", lambda: not _group_lives(pid), 10, 0.05)

    def last_words(self, lines: int = 8) -> str:
        """The end of its log, for error messages."""
        try:
            return "\n".join((self.log / f"{self.name}.log").read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"


def started_at(pid: int) -> int | None:
    """The start time of a living process in clock ticks since boot; None when it is gone or a zombie."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return None  # it was our child, and is reaped now
    except ChildProcessError:
        pass  # started by an earlier `up`
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _group_lives(pid: int) -> bool:
    if started_at(pid) is not None:
        return True
    return any(_group_of(other) == pid for other in _all_pids())


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - names are all we need


def _group_of(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[2])


def pids_in_namespaces(inodes: set[int]) -> set[int]:
    """Every process whose network or mount namespace is one of `inodes`."""
    found = set()
    for pid in _all_pids():
        for kind in ("net", "mnt"):
            try:
                inode = Path(f"/proc/{pid}/ns/{kind}").stat().st_ino
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # ended meanwhile, or none of ours
            if inode in inodes:
                found.add(pid)
    return found


def pids_mentioning(text: str) -> set[int]:
    """Every process whose command line mentions `text`, beside our own and its parents."""
    found = set()
    for pid in _all_pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text.encode() in words:
            found.add(pid)
    return found - _ancestry()


def _ancestry() -> set[int]:
    pid, chain = os.getpid(), set()
    while pid > 1:
        chain.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return chain


def kill_all(pids: set[int]) -> None:
    """KILL each and wait until none is left."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_until("the end of killed processes", lambda: all(started_at(pid) is None for pid in pids), 10, 0.05)
