"""restate: a real server (its program is ADDRESS), and a service in this process."""

import asyncio
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import hypercorn.asyncio
import hypercorn.config
import restate
from common import WARM, Stopwatch, main, value

HOST = "127.0.0.1"
START_SECONDS = 60
watch = Stopwatch()
passed: list[float] = []
bench = restate.Service("Bench")


@bench.handler()
async def sequence(ctx: restate.Context, given: dict[str, int]) -> None:
    for n in range(given["count"]):
        watch.start()
        await ctx.run_typed(f"s{n}", value, size=given["size"])
        watch.stop()


@bench.handler()
async def resumed(ctx: restate.Context, given: dict[str, int]) -> None:
    begun = time.perf_counter()
    for n in range(given["count"]):
        await ctx.run_typed(f"s{n}", value, size=given["size"])
    passed.append(time.perf_counter() - begun)
    if len(passed) == 1:
        raise RuntimeError("the first attempt ends here")


def ports(count: int) -> list[int]:
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


def post(url: str, body: object, timeout: float = 120) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read()


def until_posted(url: str, body: object) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            post(url, body, 10)
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


async def served(program: str, handler: str, given: dict[str, int]) -> None:
    """Start the server and the service, and call the handler once."""
    service, ingress, admin, node = ports(4)
    config = hypercorn.config.Config()
    config.bind, config.h2_max_concurrent_streams, config.errorlog = [f"{HOST}:{service}"], 100, None
    stop = asyncio.Event()
    serving = asyncio.create_task(hypercorn.asyncio.serve(restate.app([bench]), config, shutdown_trigger=stop.wait))
    with tempfile.TemporaryDirectory(prefix="restate-") as base:
        env = os.environ | {
            "RESTATE_INGRESS__BIND_ADDRESS": f"{HOST}:{ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"{HOST}:{admin}",
            "RESTATE_BIND_ADDRESS": f"{HOST}:{node}",
            "RESTATE_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
            "RUST_LOG": "warn",
        }
        log = (Path(base) / "log").open("wb")
        server = subprocess.Popen(  # noqa: ASYNC220  nothing else happens then
            [program, "--base-dir", base], env=env, stdout=log, stderr=log, cwd=base
        )
        try:
            body = {"uri": f"http://{HOST}:{service}", "use_http_11": False}
            await asyncio.to_thread(until_posted, f"http://{HOST}:{admin}/deployments", body)
            await asyncio.to_thread(post, f"http://{HOST}:{ingress}/Bench/{handler}", given)
        except Exception as error:
            raise RuntimeError((Path(base) / "log").read_text()[-3000:]) from error
        finally:
            server.terminate()
            server.wait(30)
            log.close()
            stop.set()
            await serving


def setup(_: str, __: int, ___: int) -> dict[str, object]:
    return {}


def steps(program: str, count: int, size: int) -> dict[str, object]:
    asyncio.run(served(program, "sequence", {"count": count + WARM, "size": size}))
    return {"took": watch.took[WARM:]}


def resume(program: str, count: int, size: int) -> dict[str, object]:
    asyncio.run(served(program, "resumed", {"count": count, "size": size}))
    return {"seconds": passed[1]}


main({"setup": setup, "steps": steps, "resume": resume})
