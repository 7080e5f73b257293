"""A task that leaves behind what a process can, and one that looks for it: two runs of the same pod."""

LEAKS = '''
import atexit
import contextvars
import logging
import os
import random
import signal
import socket
import sys
import threading
import time

from milepost import Context, task

NUMBER = 77  # of a descriptor and of a port
SEEN = []
TRACE = contextvars.ContextVar("trace", default="")
PLACES = ("/tmp", "/dev/shm", "/run/milepost")
SIGNALS = (signal.SIGUSR2, signal.SIGALRM, signal.SIGTERM)


def leave_files() -> None:
    for place in PLACES:
        try:
            inner = os.path.join(place, ".left", "deep")
            os.makedirs(inner)
            with open(os.path.join(inner, "file"), "w") as file:
                file.write("left")
            os.symlink("/etc", os.path.join(place, ".left", "link"))
            os.chmod(inner, 0o500)
            with open(os.path.join(place, "left"), "w") as file:
                file.write("left")
        except OSError as error:
            print("can not leave files in", place, error)


def leave_processes() -> None:
    """A daemon of a session of its own, that hears no SIGTERM, and a child that nobody waits for."""
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        while True:
            time.sleep(60)
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)


def leave_in_process() -> None:
    SEEN.append("left")
    sys.modules["left"] = sys
    sys.path.insert(0, "/left")
    os.environ["LEFT"] = "left"
    os.environ["TRACEPARENT"] = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    os.chdir("/usr")
    os.umask(0o777)
    random.seed(NUMBER)
    TRACE.set("left")
    logging.getLogger().setLevel(logging.CRITICAL)
    logging.getLogger().addHandler(logging.NullHandler())
    threading.excepthook = print
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 3600)
    os.dup2(os.open("/dev/null", os.O_RDONLY), NUMBER)
    os.set_inheritable(NUMBER, True)
    server = socket.socket()
    server.bind(("127.0.0.1", 20000 + NUMBER))
    server.listen()
    server.detach()
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    SEEN.append(bytearray(b"x") * (48 * 2**20))
    atexit.register(print, "left")


def listening() -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", 20000 + NUMBER)) == 0


def processes() -> list[int]:
    """Of this container: the parent and this one, and nobody else."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def look() -> dict[str, str]:
    """What is found of it, by the way it was left."""
    mask, memory = os.umask(0o022), resident()
    found = {
        "files": [p for place in PLACES for p in (place + "/left", place + "/.left") if os.path.lexists(p)],
        "other files": [name for place in PLACES[:2] for name in os.listdir(place)],
        "processes": [pid for pid in processes() if pid not in (1, os.getpid())],
        "globals": [len(SEEN)] if SEEN else [],
        "modules": [name for name in sys.modules if name == "left"],
        "path": [path for path in sys.path if path == "/left"],
        "environment": [name for name in ("LEFT", "TRACEPARENT") if name in os.environ],
        "directory": [] if os.getcwd() == START else [os.getcwd()],
        "umask": [] if mask == MASK else [oct(mask)],
        "chance": [EXPECTED] if random.random() == EXPECTED else [],
        "trace": [TRACE.get()] if TRACE.get() else [],
        "logging": [h for h in logging.getLogger().handlers if isinstance(h, logging.NullHandler)],
        "level": [logging.getLogger().level] if logging.getLogger().level == logging.CRITICAL else [],
        "hook": [1] if threading.excepthook is print else [],
        "signals": [n.name for n in SIGNALS if signal.getsignal(n) is signal.SIG_IGN],
        "timer": [signal.getitimer(signal.ITIMER_REAL)[0]] if signal.getitimer(signal.ITIMER_REAL)[0] else [],
        "descriptor": [NUMBER] if os.path.exists(f"/proc/self/fd/{NUMBER}") else [],
        "socket": [NUMBER] if listening() else [],
        "threads": [t.name for t in threading.enumerate() if t.name.startswith("Thread-")],
        "memory": [memory] if memory > 40 * 2**10 + BEFORE else [],
    }
    return {way: str(what) for way, what in found.items() if what}


def resident() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


START = os.getcwd()
MASK = os.umask(0o022)
os.umask(MASK)
BEFORE = resident()
random.seed(NUMBER)
EXPECTED = random.random()
random.seed()


@task(id="leaks")
async def main(ctx: Context, leave: bool) -> dict[str, str]:
    """Leave everything, or tell what is found of it."""
    if not leave:
        return {"pod": os.uname().nodename, **look()}
    leave_files()
    leave_processes()
    leave_in_process()
    return {"pod": os.uname().nodename}
'''
