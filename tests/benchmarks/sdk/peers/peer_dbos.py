"""dbos: plain workflows and steps, its quicker kind."""

import time
import uuid

from common import STEPS_OF_SIZED, WARM, Stopwatch, main, value
from dbos import DBOS, SetWorkflowID

watch = Stopwatch()
passed: list[float] = []


@DBOS.step()
def give(text: str) -> str:
    return text


@DBOS.workflow()
def sequence(count: int, size: int) -> None:
    for _ in range(count):
        watch.start()
        give(value(size))
        watch.stop()


@DBOS.workflow()
def resumed(count: int, size: int) -> None:
    begun = time.perf_counter()
    for _ in range(count):
        give(value(size))
    passed.append(time.perf_counter() - begun)
    if len(passed) == 1:
        raise RuntimeError("the first attempt ends here")


def launched(url: str) -> None:
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "CRITICAL", "run_admin_server": False})
    DBOS.launch()


def setup(url: str, _: int, __: int) -> dict[str, object]:
    launched(url)
    DBOS.destroy()
    return {}


def steps(url: str, count: int, size: int) -> dict[str, object]:
    launched(url)
    sequence(count + WARM, size)
    DBOS.destroy()
    return {"took": watch.took[WARM:]}


def resume(url: str, count: int, size: int) -> dict[str, object]:
    """Forked behind its last step, which is how it goes on after a failure."""
    launched(url)
    name = str(uuid.uuid4())
    with SetWorkflowID(name):
        try:
            resumed(count, size)
        except RuntimeError:
            handle = DBOS.fork_workflow(name, count + 1)
            handle.get_result()
    DBOS.destroy()
    return {"seconds": passed[1]}


def size(url: str, count: int, each: int) -> dict[str, object]:
    launched(url)
    for _ in range(count):
        sequence(STEPS_OF_SIZED, each)
    DBOS.destroy()
    return {}


main({"setup": setup, "steps": steps, "resume": resume, "size": size})
