"""What has to hold between two runs of one pod: nothing of the first is left that the second could see."""

import os
import stat
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fcntl import F_GETFL, fcntl
from pathlib import Path
from typing import Final

from milepost.net.blocking import BlockingClient
from milepost.net.messages import TransportError, compact
from milepost.runner import sysv
from milepost.runner.log import say
from milepost.runner.processes import below, end_all
from milepost.runner.wipe import left_in, wipe
from milepost.wire.local import SCRATCH_ENV

GROWTH_BYTES: Final = 64 * 1024 * 1024
GROWTH: Final = 1.5
STANDARD: Final = (0, 1, 2)
RESIDENT: Final = 1
MOST_TOLD: Final = 5
MOST_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Own:
    """This process as it should be before each fork."""

    directory: str
    environment: Mapping[str, str]
    umask: int
    descriptors: frozenset[int]

    @classmethod
    def now(cls) -> "Own":
        """Look at it."""
        umask = os.umask(0o77)
        os.umask(umask)
        return cls(os.getcwd(), dict(os.environ), umask, open_descriptors())  # noqa: PTH109


class Hygiene:
    """Made before the task is imported. `imported` is called after that, `tidied` after each run."""

    def __init__(self, scratch: tuple[str, ...], socket: str) -> None:
        self._scratch = scratch
        self._socket = socket
        self._before = open_descriptors()
        self._own: Own | None = None
        self._bytes = 0
        self._told = False
        self.unforkable: list[str] = []

    @classmethod
    def of(cls, env: Mapping[str, str], socket: str) -> "Hygiene | None":
        """Make it of MILEPOST_SCRATCH; None where that is not set: then the pod has one run."""
        places = tuple(place for place in env.get(SCRATCH_ENV, "").split(":") if place)
        return cls(places, socket) if places else None

    def imported(self) -> None:
        """Note what the import of the task left outside of memory: a second fork would share it with the first."""
        self._own, self._bytes = Own.now(), resident_bytes()
        threads = [f"thread {one.name}" for one in threading.enumerate() if one is not threading.main_thread()]
        shared = [
            f"descriptor {number}" for number in sorted(self._own.descriptors - self._before) if is_shared(number)
        ]
        started = [f"process {pid}" for pid in below(os.getpid())]  # ended with the first run, as all processes are
        self.unforkable = [*threads, *shared, *started, *left_in(self._scratch, self._socket)]

    def tell_sidecar(self) -> None:
        """Have the control plane show it. One that does not want to know, or can't be told now, is not waited for."""
        if not self.unforkable:
            return
        client = BlockingClient(self._socket)
        body = compact({"left": [*self.unforkable[:MOST_SHOWN]]})
        with suppress(TransportError):
            client.request("PUT", "/v1/left", [("Content-Type", "application/json")], body)
        client.close()

    def tell_unforkable(self) -> None:
        """Say once why each further run of this pod imports the task anew."""
        if self.unforkable and not self._told:
            self._told = True
            more = ", …" if len(self.unforkable) > MOST_TOLD else ""
            say(
                f"the import of the task left {', '.join(self.unforkable[:MOST_TOLD])}{more}, which the runs of this "
                "pod would share: each further one imports it anew, in a process of its own"
            )

    def tidied(self) -> str | None:
        """End and remove what the run left. Gives why the pod should take no other run, None when it may."""
        if not end_all():
            say("processes of the run don't end: no other run follows in this pod")
            return "unclean"
        try:
            wipe(self._scratch, self._socket)
        except OSError as error:
            say(f"what the run left can't be removed ({error}): no other run follows in this pod")
            return "unclean"
        if os.getpid() == 1:
            sysv.remove_all()
        if not self._intact():
            return "unclean"
        return "grew" if resident_bytes() > max(self._bytes + GROWTH_BYTES, self._bytes * GROWTH) else None

    def _intact(self) -> bool:
        if self._own == Own.now() or threading.active_count() > 1:  # threads of the import do as they like
            return True
        say("this process is no more what it was before the run: no other run follows in this pod")
        return False


def open_descriptors() -> frozenset[int]:
    """Give the open descriptors of this process."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            os.fstat(int(name))
        except OSError:
            continue  # that of the listing itself
        found.append(int(name))
    return frozenset(found)


def is_shared(number: int) -> bool:
    """Tell whether two processes that have this descriptor would be in each other's way."""
    mode = os.fstat(number).st_mode
    if stat.S_ISREG(mode):  # the place in the file is one for all, unless each write goes to its end
        return not fcntl(number, F_GETFL) & os.O_APPEND
    return not stat.S_ISCHR(mode) and not stat.S_ISDIR(mode)


def restore_standard() -> None:
    """Undo what asyncio does to a pipe that it writes to: blocking or not, it is so for all processes that have it."""
    for number in STANDARD:
        with suppress(OSError):  # it is closed
            os.set_blocking(number, True)


def resident_bytes() -> int:
    """Give the bytes of this process in memory; 0 where that can't be told."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[RESIDENT]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
