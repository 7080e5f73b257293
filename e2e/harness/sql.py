"""SQL in the embedded Postgres, through kubectl exec: rows are the truth, so scenarios check them."""

import atexit
import json
import os
import selectors
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import IO

from e2e.harness.kubectl import Kubectl, KubectlError, objects

PSQL = 'PGPASSWORD=$(cat /etc/postgresql-secrets/password) exec psql -h 127.0.0.1 -U milepost -d milepost "$@"'
ROWS_SECONDS = 60.0


@dataclass(frozen=True)
class Sql:
    """`pod`: the database's pod, in `namespace`. Queries share one psql that stays: scenarios ask all the time."""

    kubectl: Kubectl
    namespace: str
    pod: str = "milepost-postgres-0"
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)
    _open: "list[_Psql]" = field(default_factory=list, compare=False)

    def run(self, script: str) -> str:
        """Execute statements, stopping at the first error; returns what they print, unaligned."""
        flags = ["-qtAX", "-v", "ON_ERROR_STOP=1", "-f", "-"]
        return self.kubectl.execute(
            self.pod, self.namespace, "postgres", "sh", "-c", PSQL, "psql", *flags, text_in=script
        )

    def rows(self, query: str) -> list[dict[str, object]]:
        """Give the rows of a query as JSON objects.

        Raises:
            KubectlError: the query is wrong, or the database can't be reached.
        """
        asked = f"select coalesce(json_agg(row_to_json(q)), '[]'::json) from ({query}) q"
        with self._lock:
            kept = bool(self._open)
            try:
                return objects(json.loads(self._ask(asked)))
            except LostError as error:
                if not kept:
                    raise KubectlError(("exec", self.pod), 1, str(error)) from error
            try:
                return objects(json.loads(self._ask(asked)))  # a query changes nothing: the database may be a new one
            except LostError as error:
                raise KubectlError(("exec", self.pod), 1, str(error)) from error

    def value(self, query: str) -> object:
        """Give the first column of the first row; None when there is none."""
        found = self.rows(query)
        return next(iter(found[0].values())) if found else None

    def _ask(self, query: str) -> str:
        if not self._open:
            words = ("exec", "-i", "-n", self.namespace, self.pod, "-c", "postgres", "--", "sh", "-c", PSQL)
            self._open.append(_Psql(self.kubectl.words(*words, "psql", "-qtAX")))
            atexit.register(self._open[0].close)
        try:
            return self._open[0].ask(query)
        except LostError:
            lost = self._open.pop()
            atexit.unregister(lost.close)
            lost.close()
            raise


class LostError(Exception):
    """The psql that stayed is gone, or silent; the text is what it said last."""


class _Psql:
    """A psql at the other end of two pipes; after each query it says that it is through, and whether it failed."""

    def __init__(self, words: list[str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, bufsize=0)
        self._asked = 0

    def ask(self, query: str) -> str:
        """What it prints. Raises KubectlError for a wrong query, and LostError."""
        self._asked += 1
        end = f"-- through {self._asked} "
        try:
            self._in.write(f"{query};\n\\echo '{end}' :ERROR\n".encode())
        except OSError as error:
            raise LostError(str(error)) from error
        said = self._until(end.encode())
        text, _, failed = said.decode().rpartition(end)
        if failed.strip() == "true":
            raise KubectlError(("exec", "psql", query), 1, text)
        return text

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _until(self, end: bytes) -> bytes:
        said = b""
        deadline = time.monotonic() + ROWS_SECONDS
        with selectors.DefaultSelector() as ready:
            ready.register(self._out, selectors.EVENT_READ)
            while not (end in said and said.endswith(b"\n")):
                if not ready.select(max(0.0, deadline - time.monotonic())):
                    raise LostError(f"no answer within {ROWS_SECONDS:.0f} s")
                chunk = os.read(self._out.fileno(), 65536)
                if not chunk:
                    raise LostError(said.decode(errors="replace").strip() or "psql ended")
                said += chunk
        return said

    @property
    def _in(self) -> IO[bytes]:
        return _there(self._process.stdin)

    @property
    def _out(self) -> IO[bytes]:
        return _there(self._process.stdout)


def _there(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise AssertionError("the process was started without this pipe")
    return pipe


def literal(text: str) -> str:
    """Quote a text for SQL."""
    return "'" + text.replace("'", "''") + "'"
