"""Tasks that want more than they may have, and one that looks for what it must not have."""

FORKS = '''
import os
import time

from milepost import Context, task


def processes() -> int:
    return sum(name.isdigit() for name in os.listdir("/proc"))


@task(id="forks")
def main(ctx: Context) -> int:
    """A fork bomb: each process makes more of its kind, for as long as it can."""
    while True:
        try:
            child = os.fork()
        except OSError as error:
            raise RuntimeError(f"no process more than {processes()}: {error.strerror}") from error
        if child:
            continue
        while True:
            try:
                os.fork()
            except OSError:
                time.sleep(60)
'''

MEMORY = """
from milepost import Context, task


@task(id="memory")
def main(ctx: Context) -> int:
    return len([bytearray(b"x") * 2**20 for _ in range(4096)])
"""

DISK = '''
import time

from milepost import Context, task


@task(id="disk")
def main(ctx: Context) -> int:
    """Fill the disk to three times of what it may have, and wait for somebody to notice."""
    with open("/tmp/filling", "wb") as file:
        for _ in range(96):
            file.write(bytes(2**20))
    time.sleep(120)
    return file.tell()
'''

SPIN = '''
import os
import time

from milepost import Context, task


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@task(id="spin")
def main(ctx: Context, seconds: float = 4.0) -> dict[str, float]:
    """Four times as many processes as there are processors: how much of one they got, all together."""
    began = time.monotonic()
    children = []
    for _ in range(4 * (os.cpu_count() or 1)):
        if not (child := os.fork()):
            spin(seconds)
            os._exit(0)
        children.append(child)
    used = 0.0
    for child in children:
        usage = os.wait4(child, 0)[2]
        used += usage.ru_utime + usage.ru_stime
    return {"cpus": used / (time.monotonic() - began)}
'''

THIEF = '''
import ctypes
import glob
import http.client
import json
import os
import socket
import ssl

from milepost import Context, task

TOKENS = ("/var/run/secrets/milepost/token", "/var/run/secrets/kubernetes.io/serviceaccount/token")
PLACES = ("/run/milepost/**", "/var/run/secrets/**")
CLONE_NEWUSER = 0x10000000


def outcome(deed) -> str:
    """What became of an attempt to do something."""
    try:
        return f"done: {deed()!r}"
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


def read(path: str) -> str:
    with open(path, "rb") as file:
        return repr(file.read(200))


def write(path: str) -> int:
    with open(path, "w") as file:
        return file.write("x")


def is_file(path: str) -> bool:
    """Not a directory; glob also gives one that is not there."""
    return os.path.lexists(path) and not os.path.isdir(path)


def unshare() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare")
    return 0


def api(method: str, path: str, body: object = None, token: str = "") -> int:
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection(os.environ["API"], timeout=10, context=context)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    return connection.getresponse().status


def kubelet(port: int) -> int:
    socket.create_connection((os.environ["NODE"], port), 2).close()
    return port


class Sidecar(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(os.environ["MILEPOST_SOCKET"])


def sidecar(method: str, path: str, body: object = None) -> list:
    connection = Sidecar("milepost")
    connection.request(method, path, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    said = json.loads(answer.read() or "null")
    return [answer.status, said.get("code") or said.get("run_id") if isinstance(said, dict) else None]


def own_status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        pairs = dict(line.rstrip().split(":", 1) for line in file)
    return {name: pairs[name].strip() for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}


@task(id="thief")
def main(ctx: Context, other: dict[str, str | int]) -> dict[str, object]:
    """Look for credentials, other processes and ways out. `other`: a run of somebody else, with its fence."""
    pod_id = os.uname().nodename.split("-")[1]
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    owners = {os.stat(f"/proc/{pid}").st_uid for pid in pids if pid != 1}
    fence = {key: other[key] for key in ("run_id", "attempt", "token")}
    record = {"write_id": "w", "kind": "checkpoint", "key": "stolen", "value": "1"}
    return {
        "tokens": {path: outcome(lambda path=path: read(path)) for path in TOKENS},
        "files": [path for place in PLACES for path in glob.glob(place, recursive=True) if is_file(path)],
        "secrets in env": [name for name, value in os.environ.items() if "token" in name.lower() or value[:2] == "ey"],
        "others' processes": sorted(owners - {os.getuid()}),
        "parent": {name: outcome(lambda name=name: read(f"/proc/1/{name}")) for name in ("environ", "mem")},
        "status": own_status(),
        "root": outcome(lambda: os.setuid(0)),
        "user namespace": outcome(unshare),
        "write": {path: outcome(lambda path=path: write(path)) for path in ("/etc/stolen", "/stolen", "/sys/stolen")},
        "api": {
            "list": outcome(lambda: api("GET", "/v1/runs?namespace=default")),
            "nonsense": outcome(lambda: api("GET", "/v1/runs?namespace=default", token="nothing")),
            "session": outcome(lambda: api("POST", "/pod/v1/session", {"pod_id": pod_id})),
            "record": outcome(lambda: api("POST", "/pod/v1/records", {"fence": fence, "records": [record]})),
        },
        "kubelet": {str(port): outcome(lambda port=port: kubelet(port)) for port in (10250, 10255)},
        "sidecar": {
            "next of another": outcome(
                lambda: sidecar("POST", "/v1/next", fence | {"retire": None, "parent_bytes": 0})
            ),
            "pod api": outcome(lambda: sidecar("POST", "/pod/v1/records", {"fence": fence, "records": [record]})),
            "way up": outcome(lambda: sidecar("GET", "/v1/checkpoints/../../../var/run/secrets/milepost/token")),
        },
    }
'''
