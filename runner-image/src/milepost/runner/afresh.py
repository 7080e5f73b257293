"""Asks for the attempt and loads its task; again in a process of its own, where that starts threads.

A fork has only the thread that forked: an exporter or a pool of the user's module would stand still in it, and a lock
that such a thread held at that moment would never be free again.
"""

import os
import sys
from collections.abc import Mapping
from typing import NoReturn

from milepost.errors import MilepostError
from milepost.runner import failure
from milepost.runner.cgroup import Counters
from milepost.runner.child import SETTLED, run_and_exit
from milepost.runner.load import LoadError, load
from milepost.runner.log import say
from milepost.sdk.client import BlockingSidecar
from milepost.sdk.local import write_headers
from milepost.sdk.run import AttemptInfo
from milepost.sdk.task import TaskFunction
from milepost.wire.local import EXIT_CONFIG, EXIT_SIDECAR, SOCKET, SOCKET_ENV


def attempt_of(sidecar: BlockingSidecar) -> AttemptInfo:
    """Ask the sidecar for the attempt. Raises MilepostError."""
    answer = sidecar.call("GET", "/v1/attempt", []).json()
    if not isinstance(answer, Mapping):
        raise MilepostError("the sidecar's /v1/attempt is no object")
    return AttemptInfo.from_json(answer)


def load_or_settle(attempt: AttemptInfo, sidecar: BlockingSidecar) -> TaskFunction[..., object] | None:
    """Give the task; None when it can't be loaded, which is then the attempt's settled failure."""
    try:
        return load(attempt)
    except LoadError as error:
        say(error.traceback or str(error))
        body = failure.body("config", "LoadError", str(error), error.traceback, retryable=False)
        sidecar.call("PUT", "/v1/failure", write_headers(), body)
        return None


def afresh(before: Counters, told: int) -> NoReturn:
    """Become a new interpreter that runs the attempt. One byte goes to the pipe `told` once it is settled."""
    os.set_inheritable(told, True)
    os.execv(  # noqa: S606
        sys.executable, [sys.executable, "-m", "milepost.runner.afresh", str(told), str(before)]
    )


def main(told: int, before: Counters) -> NoReturn:
    """Load the task and run the attempt."""
    os.set_inheritable(told, False)
    path = os.environ.get(SOCKET_ENV) or SOCKET
    sidecar = BlockingSidecar(path)
    try:
        attempt = attempt_of(sidecar)
        task = load_or_settle(attempt, sidecar)
    except MilepostError as error:
        say(str(error))
        os._exit(EXIT_SIDECAR)
    if task is None:
        os.write(told, SETTLED)
        os._exit(EXIT_CONFIG)
    sidecar.close()
    run_and_exit(task, attempt, path, before, told)


if __name__ == "__main__":
    main(int(sys.argv[1]), Counters.of(sys.argv[2]))
