"""The measure of `--writers`: a bare FastAPI app that commits in batches and checks nothing.

`python -m tests.benchmarks.bare PORT CERT KEY DSN CA|-`, with the same server, loop, TLS and driver as the api has.
"""

import asyncio
import ssl
import sys
from collections.abc import Awaitable, Callable

import asyncpg
import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel

TABLE = "create table if not exists bare (id bigint generated always as identity primary key, key text, value json)"
INSERT = "insert into bare (key, value) select * from unnest($1::text[], $2::json[]) returning id"


class Write(BaseModel):
    """A record."""

    key: str
    value: str


def batching(commit: Callable[[list[Write]], Awaitable[list[int]]]) -> Callable[[Write], Awaitable[int]]:
    """What comes while one commit is under way goes with the next."""
    waiting: list[tuple[Write, asyncio.Future[int]]] = []
    running: list[asyncio.Task[None]] = []

    async def work() -> None:
        while waiting:
            batch, waiting[:] = waiting[:], []
            for (_, answer), number in zip(batch, await commit([w for w, _ in batch]), strict=True):
                answer.set_result(number)
        running.clear()

    def submit(write: Write) -> Awaitable[int]:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiting.append((write, answer))
        if not running:
            running.append(asyncio.create_task(work()))
        return answer

    return submit


async def _serve(port: str, cert: str, key: str, dsn: str, ca: str) -> None:
    tls = {} if ca == "-" else {"ssl": ssl.create_default_context(cafile=ca)}
    connection = await asyncpg.connect(dsn, **tls)
    await connection.execute(TABLE)

    async def commit(writes: list[Write]) -> list[int]:
        rows = await connection.fetch(INSERT, [w.key for w in writes], [w.value for w in writes])
        return [row["id"] for row in rows]

    submit, app = batching(commit), FastAPI()

    @app.post("/records")
    async def records(write: Write) -> dict[str, int]:
        return {"seq": await submit(write)}

    config = uvicorn.Config(
        app, "127.0.0.1", int(port), log_config=None, access_log=False, ssl_certfile=cert, ssl_keyfile=key
    )
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:6]))
