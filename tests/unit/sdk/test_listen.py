"""Connections of a unix socket: taken, served, and not lost when there is no room for them."""

import asyncio
import os
import resource
import socket
from pathlib import Path

import pytest

from milepost.net import listen
from milepost.net.listen import Listener
from milepost.net.stream import Stream


async def echo(stream: Stream) -> None:
    try:
        while data := await stream.receive():
            await stream.send(data)
    finally:
        stream.close()


async def test_connections_are_served_also_after_the_listener_closed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.touch()  # what a process that was killed left
    listener = Listener(str(path), echo)
    streams = [await Stream.unix(str(path)) for _ in range(3)]
    for stream in streams:
        await stream.send(b"a")
        assert await stream.receive() == b"a"
    listener.close()
    for stream in streams:
        await stream.send(b"b")
        assert await stream.receive() == b"b"
        stream.close()
    with pytest.raises(ConnectionRefusedError):
        await Stream.unix(str(path))


async def test_connections_wait_while_no_more_files_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listen, "FULL_SECONDS", 0.01)
    path, loop = str(tmp_path / "s"), asyncio.get_running_loop()
    full, before = asyncio.Event(), loop.call_later
    listener = Listener(path, echo)
    monkeypatch.setattr(loop, "call_later", lambda *args: (full.set(), before(*args))[1])
    client = socket.socket(socket.AF_UNIX)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        client.connect(path)
        async with asyncio.timeout(10):
            await full.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    client.setblocking(False)
    stream = Stream(client)
    await stream.send(b"late")
    async with asyncio.timeout(10):
        assert await stream.receive() == b"late"
    stream.close()
    listener.close()


async def test_bytes_that_came_as_their_reader_gave_up_are_read_by_the_next() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = Stream(ours)
    reading = asyncio.create_task(stream.receive())
    await asyncio.sleep(0)
    theirs.send(b"late")
    stream._on_readable()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await stream.receive() == b"late"
    theirs.close()
    assert await stream.receive() == b""
    stream.close()


async def test_who_waits_is_told_when_the_stream_is_closed_here() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    stream = Stream(ours)
    reading = asyncio.create_task(stream.receive())
    await asyncio.sleep(0)
    stream.close()
    assert await reading == b""
    theirs.close()
