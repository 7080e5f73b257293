"""Running programs, waiting with a deadline, and saying what goes on: the three things every part here does."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

Result = subprocess.CompletedProcess[str]
HEARTBEAT = 15.0  # seconds between "still at it" lines


class Problem(RuntimeError):  # noqa: N818 - the reader is a person, who has a problem
    """Something a person can act on; its text is one sentence that says what."""


def say(text: str) -> None:
    """Print a progress line at once, on stderr: stdout belongs to results."""
    print(text, file=sys.stderr, flush=True)


def run(argv: Sequence[str | Path], *, text_in: str | None = None, check: bool = True, timeout: float = 120) -> Result:
    """Run a program to its end and keep its output; a failure becomes a Problem that quotes stderr."""
    words = [str(word) for word in argv]
    done = subprocess.run(words, input=text_in, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise Problem(f"`{' '.join(words)[:300]}` failed with {done.returncode}: {said}")
    return done


def run_loudly(title: str, argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> None:
    """Run a long program with its output in `log`, one line at start and end and a heartbeat between."""
    say(f"{title} …")
    began = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [str(word) for word in argv], stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, env=env, process_group=0
        )
        try:
            _wait_with_heartbeat(process, title, began)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise Problem(f"{title} failed with {process.returncode}, its output is in {log}:\n{tail}")
    say(f"{title}: done in {time.monotonic() - began:.0f} s")


def reach_directly(*addresses: str, env: MutableMapping[str, str] = os.environ) -> None:
    """Let this process and those it starts speak to these addresses past any proxy that the machine has configured."""
    for name in ("NO_PROXY", "no_proxy"):
        known = [part for part in env.get(name, "").split(",") if part]
        env[name] = ",".join([*known, *(address for address in addresses if address not in known)])


def interruptible() -> None:
    """Let each signal that asks this program to end raise KeyboardInterrupt: however it is ended, it cleans up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means what it says
            signal.signal(number, _as_interrupt)


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def beside(argv: Sequence[str | Path]) -> Iterator[None]:
    """Have a program at work meanwhile, and wait for its end; interrupt it when what it runs beside fails.

    It is a head start, nothing else, and says nothing: what it could not do is found out by whoever needs it.
    """
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([str(word) for word in argv], stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        yield
    except BaseException:
        process.terminate()
        raise
    finally:
        process.wait()


def _wait_with_heartbeat(process: subprocess.Popen[bytes], title: str, began: float) -> None:
    while True:
        try:
            process.wait(HEARTBEAT)
        except subprocess.TimeoutExpired:
            say(f"{title}: {time.monotonic() - began:.0f} s so far")
        else:
            return


def wait_until(what: str, ready: Callable[[], bool], timeout: float = 60, interval: float = 0.1) -> None:
    """Poll until `ready()`; after `timeout` seconds raise a Problem that names `what`."""
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise Problem(f"{what} did not come within {timeout:.0f} s")
        time.sleep(interval)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the machine-wide lock `path`; say so when another process has it, and wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process works on {what}: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
