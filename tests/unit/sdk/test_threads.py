"""Plain functions of an async task in threads: what the loop does meanwhile, and how they end."""

import asyncio
import gc
import threading
import weakref
from contextvars import ContextVar

import pytest

from milepost.sdk.threads import MOST, Threads
from tests.unit.sdk.conftest import until

WHERE: ContextVar[str] = ContextVar("where")


async def test_what_a_function_returns_or_raises_is_that_of_the_call() -> None:
    threads = Threads()
    WHERE.set("here")

    def named(name: str, *, twice: bool) -> tuple[str, str, bool]:
        return WHERE.get(), name * (2 if twice else 1), threading.current_thread() is threading.main_thread()

    assert await threads.run(named, ("a",), {"twice": True}) == ("here", "aa", False)
    with pytest.raises(ValueError, match="invalid literal") as raised:
        await threads.run(int, ("x",), {})
    assert raised.traceback[0].name == "test_what_a_function_returns_or_raises_is_that_of_the_call"
    with pytest.raises(RuntimeError, match="StopIteration"):
        await threads.run(next, (iter(()),), {})
    assert threads._busy == 0
    assert len(threads._threads) == 1
    threads.end()


async def test_the_loop_goes_on_while_functions_take_their_time_and_none_is_forgotten() -> None:
    threads, gate = Threads(), threading.Event()
    calls = [asyncio.create_task(threads.run(gate.wait, (), {})) for _ in range(MOST + 3)]
    await until(lambda: threads._busy == MOST + 3)
    assert len(threads._threads) == MOST
    assert not any(call.done() for call in calls)
    gate.set()
    assert await asyncio.gather(*calls) == [True] * (MOST + 3)
    assert threads._busy == 0
    threads.end()


async def test_who_is_cancelled_leaves_the_function_to_its_end() -> None:
    threads, gate, ended = Threads(), threading.Event(), threading.Event()

    def work() -> None:
        gate.wait()
        ended.set()

    call = asyncio.create_task(threads.run(work, (), {}))
    await until(lambda: threads._busy == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (threads._busy, ended.is_set()) == (1, False)
    gate.set()
    await until(lambda: threads._busy == 0)  # its thread tells it
    assert ended.is_set()
    assert await threads.run(len, ("abc",), {}) == 3
    assert len(threads._threads) == 1
    threads.end()


def test_the_loop_waits_at_its_end_for_functions_at_work() -> None:
    gate, ended = threading.Event(), threading.Event()

    def work() -> None:
        gate.wait()
        ended.set()

    async def main() -> Threads:
        threads = Threads()
        left = asyncio.create_task(threads.run(work, (), {}))
        await until(lambda: threads._busy == 1)
        threads.end()
        assert await threads.run(len, ("ab",), {}) == 2  # what a task that is cut off still wants
        assert not left.done()
        gate.set()
        return threads

    threads = asyncio.run(main())
    assert ended.is_set()
    for thread in threads._threads:
        thread.join(10)
        assert not thread.is_alive()


async def test_what_an_error_holds_ends_with_it() -> None:
    """A response that an HTTP error carries is closed as the error goes, not whenever the collector comes by."""

    class Held:
        pass

    class CarryingError(Exception):
        pass

    held = Held()
    gone = weakref.ref(held)

    def fail(carried: list[object]) -> None:
        raise CarryingError(carried.pop())

    carried: list[object] = [held]
    del held
    gc.disable()
    try:
        try:
            await Threads().run(fail, (carried,), {})
        except CarryingError as error:
            assert error.args == (gone(),)  # noqa: PT017  # what pytest.raises gives would hold it, too
        assert gone() is None
    finally:
        gc.enable()
