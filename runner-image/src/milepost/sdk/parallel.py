"""Many awaitables at once, each on a branch of its own, so that each resumes on its own."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Settled(Generic[R]):
    """How one of several ended: with `value`, or with `error`."""

    value: R | None = None
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether it gave a value."""
        return self.error is None

    def unwrap(self) -> R:
        """Give the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # set where there is no error


async def all_settled(*awaitables: Awaitable[R]) -> list[Settled[R]]:
    """Wait for all, whatever fails; their ends in the order given. Cancelling is passed on to them."""

    async def settle(one: Awaitable[R]) -> Settled[R]:
        try:
            return Settled(await one)
        except Exception as error:  # noqa: BLE001  (it is what the caller asked for)
            return Settled(error=error)

    return list(await asyncio.gather(*(settle(one) for one in awaitables)))


async def each(fn: Callable[[T], Awaitable[R]], items: Iterable[T], concurrency: int) -> list[R]:
    """`await fn(item)` for each, at most `concurrency` at once; values in the order of the items.

    The n-th item has the n-th branch, whatever order they end in. The first error ends the others.
    """
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    turns = asyncio.Semaphore(concurrency)

    async def one(item: T) -> R:
        async with turns:
            return await fn(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]
