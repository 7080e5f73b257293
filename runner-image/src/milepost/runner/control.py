"""Listens for directives while the attempt runs, over one long request that is made again whenever it breaks."""

import time
from typing import Final

from milepost.net.blocking import BROKEN, Exchange
from milepost.net.messages import Reply
from milepost.sdk.local import LOST_SECONDS

FIRST_PAUSE: Final = 0.05
LAST_PAUSE: Final = 1.0
OK: Final = 200


class Control:
    """The parent's ear. `exchange` is what a selector waits for; None between two tries."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen = ""
        self._pause = FIRST_PAUSE
        self._lost_since: float | None = None
        self.retry_at = 0.0
        self.exchange: Exchange | None = None
        self.reason = ""
        self.grace_seconds: int | None = None

    @property
    def lost(self) -> bool:
        """Tell whether the sidecar has been away for longer than a restart of it takes."""
        return self._lost_since is not None and time.monotonic() - self._lost_since > LOST_SECONDS

    def connect(self) -> None:
        """Ask for the next directive, if it is time for it."""
        if self.exchange is not None or time.monotonic() < self.retry_at:
            return
        try:
            self.exchange = Exchange(self._path, "GET", f"/v1/control?seen={self._seen}", [])
        except OSError:
            self._broken()

    def read(self) -> str | None:
        """Read what arrived; the directive once it is there."""
        if self.exchange is None:
            return None
        try:
            reply = self.exchange.receive()
        except BROKEN:
            self._broken()
            return None
        self._lost_since, self._pause = None, FIRST_PAUSE
        return None if reply is None else self._directive(reply)

    def _directive(self, reply: Reply) -> str | None:
        self.close()
        answer = reply.problem()
        if reply.status != OK:
            self._broken()
            return None
        grace = answer.get("grace_seconds")
        self._seen = str(answer.get("directive"))
        self.reason = str(answer.get("reason") or "")
        self.grace_seconds = grace if isinstance(grace, int) and grace > 0 else None
        return self._seen

    def _broken(self) -> None:
        self.close()
        now = time.monotonic()
        self._lost_since = self._lost_since or now
        self.retry_at = now + self._pause
        self._pause = min(self._pause * 2, LAST_PAUSE)

    def close(self) -> None:
        """Hang up."""
        if self.exchange is not None:
            self.exchange.close()
            self.exchange = None
