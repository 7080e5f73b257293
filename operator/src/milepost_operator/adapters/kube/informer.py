"""A cache of the objects of one kind, by list and watch: paged, selected by label, and honest about deletions.

After a relist, what is gone is taken out; a watch that only reports what it saw would keep it for ever.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog

from milepost_operator.adapters.kube.client import KubeClient, KubeError, KubeGone

log = structlog.stdlib.get_logger(__name__)

PAGE: Final = 500
WATCH_SECONDS: Final = 300
DEAD_SECONDS: Final = 150.0
"""A watch that gave no sign of life (event, bookmark, end in order) for so long is not believed."""
_MAX_BACKOFF: Final = 10.0

Object = dict[str, Any]


class Informer:
    """`path`: the collection; `on_change` is called after each change of the cache. `remember`: seconds for which it is
    known how an object was as it was deleted.
    """

    def __init__(
        self,
        kube: KubeClient,
        path: str,
        selector: str,
        on_change: Callable[[], None] = lambda: None,
        *,
        remember: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._path = path
        self._selector = selector
        self._on_change = on_change
        self._remember = remember
        self._clock = clock
        self._cache: dict[str, Object] = {}
        self._gone: deque[tuple[float, Object]] = deque()
        self._version = ""
        self._alive = float("-inf")

    def objects(self) -> Sequence[Object]:
        return list(self._cache.values())

    def gone(self) -> Sequence[Object]:
        """What the watch saw deleted a short while ago, each as it was then."""
        self._forget()
        return [item for _, item in self._gone]

    def age(self) -> float:
        """Seconds since the last sign of life."""
        return self._clock() - self._alive

    def synced(self) -> bool:
        """A complete list was taken, and the watch is alive."""
        return self.age() < DEAD_SECONDS

    async def run(self) -> None:
        """List and watch until cancelled. Errors are waited out."""
        failures = 0
        while True:
            try:
                if not self._version:
                    await self.relist()
                await self._watch()
                failures = 0
            except KubeGone:
                self._version = ""
            except KubeError as error:
                failures += 1
                log.warning("watch_broke", path=self._path, error=str(error), failures=failures)
                await asyncio.sleep(min(0.5 * 2 ** min(failures, 6), _MAX_BACKOFF))

    async def relist(self) -> None:
        """One complete list, page by page, replaces the cache. KubeGone when it took too long: begin anew."""
        fresh: dict[str, Object] = {}
        params: dict[str, str | int] = {"labelSelector": self._selector, "limit": PAGE}
        while True:
            page = await self._kube.list(self._path, params)
            for item in page.get("items") or ():
                fresh[item["metadata"]["uid"]] = _lean(item)
            token = page.get("metadata", {}).get("continue")
            if not token:
                break
            params["continue"] = token
        changed = _versions(fresh) != _versions(self._cache)
        self._cache = fresh
        self._version = page["metadata"]["resourceVersion"]
        self._alive = self._clock()
        if changed:
            self._on_change()

    async def _watch(self) -> None:
        params: dict[str, str | int] = {
            "labelSelector": self._selector,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": WATCH_SECONDS,
        }
        async for event in self._kube.watch(self._path, params):
            self.take(event["type"], event["object"])
        self._alive = self._clock()

    def take(self, kind: str, item: Object) -> None:
        """One event of the watch."""
        self._alive = self._clock()
        self._version = item["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return
        if kind == "DELETED":
            self._cache.pop(item["metadata"]["uid"], None)
            self._gone.append((self._clock(), _lean(item)))
            self._forget()
        else:
            self._cache[item["metadata"]["uid"]] = _lean(item)
        self._on_change()

    def _forget(self) -> None:
        until = self._clock() - self._remember
        while self._gone and self._gone[0][0] <= until:
            self._gone.popleft()


def _lean(item: Object) -> Object:
    """Managed fields are a quarter of an object, and nobody's business here."""
    item["metadata"].pop("managedFields", None)
    return item


def _versions(cache: dict[str, Object]) -> dict[str, str]:
    return {uid: item["metadata"]["resourceVersion"] for uid, item in cache.items()}
