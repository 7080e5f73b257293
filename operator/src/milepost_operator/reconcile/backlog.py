"""Objects to take in: kept by name until they are taken, the newest state of each, one at a time for each name."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from milepost_operator.domain.errors import MilepostError, UnavailableError
from milepost_operator.manifests import raw
from milepost_operator.manifests.raw import Object
from milepost_operator.ports.kube import Plural

log = structlog.stdlib.get_logger(__name__)

WORKERS: Final = 8
MAX_PAUSE: Final = 10.0
MAX_TRIES: Final = 5
"""Tries of an object that fails in an unexpected way; Postgres or Kubernetes not answering is waited out."""

Key = tuple[Plural, str, str]
Take = Callable[..., Awaitable[None]]


@dataclass(slots=True)
class _Item:
    body: Object
    deleted: bool
    tries: int = 0


class Backlog:
    """`takers`: for each kind `async take(body, *, deleted)`. `put` never waits and never fails."""

    def __init__(
        self,
        takers: Mapping[Plural, Take],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._takers = takers
        self._sleep = sleep
        self._pending: dict[Key, list[_Item]] = {}
        self._ready: asyncio.Queue[Key] = asyncio.Queue()

    def put(self, plural: Plural, body: Object, *, deleted: bool) -> None:
        """A newer state of the same object replaces an older one; another object of that name waits behind it."""
        key = (plural, raw.namespace(body), raw.name(body))
        items = self._pending.get(key)
        if items is None:
            self._pending[key] = [_Item(body, deleted)]
            self._ready.put_nowait(key)
        elif items and raw.uid(items[-1].body) == raw.uid(body):
            items[-1] = _Item(body, deleted)
        else:
            items.append(_Item(body, deleted))

    def depth(self) -> int:
        return len(self._pending)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            await self.drain(key)

    async def drain(self, key: Key) -> None:
        """Take all that is pending for one name, in order."""
        items = self._pending[key]
        while items:
            item = items.pop(0)
            pause = await self._take(key, item)
            if pause is None:
                continue
            await self._sleep(pause)
            if not (items and raw.uid(items[0].body) == raw.uid(item.body)):
                items.insert(0, item)
        del self._pending[key]

    async def _take(self, key: Key, item: _Item) -> float | None:
        """None: done with it. Else seconds until it is tried again."""
        item.tries += 1
        try:
            await self._takers[key[0]](item.body, deleted=item.deleted)
        except UnavailableError as error:
            log.warning("object_waits", kind=key[0], namespace=key[1], name=key[2], error=str(error))
            return min(max(0.25 * float(2 ** min(item.tries, 6)), error.retry_after_seconds), MAX_PAUSE)
        except asyncio.CancelledError:
            raise
        except MilepostError as error:
            log.warning("object_not_taken", kind=key[0], namespace=key[1], name=key[2], error=str(error))
        except Exception:
            log.exception("object_not_taken", kind=key[0], namespace=key[1], name=key[2])
        else:
            return None
        return None if item.tries >= MAX_TRIES else 0.5 * item.tries
