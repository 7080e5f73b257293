"""What a pod does between two attempts: it asks for the next one, and waits here until it comes."""

from collections.abc import Sequence
from typing import Final

from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from milepost.wire.pod import PREFIX, NextAnswer, NextRequest
from milepost_operator.api.auth import session_of
from milepost_operator.api.batcher import Batcher
from milepost_operator.api.bodies import json_response, parse_wire, read_body
from milepost_operator.api.pod import batch_observer
from milepost_operator.api.waiting import Come, Waiters
from milepost_operator.domain.runs import PodSession
from milepost_operator.obs.metrics import Metrics
from milepost_operator.ports.warm import WarmPods

POLL_SECONDS: Final = 20.0
LOOK_SECONDS: Final = 1.0
"""Whoever gives a pod work tells of it at once: looking is for what was not heard."""

_NEXT: Final = TypeAdapter(NextRequest)
_SMALL_BODY: Final = 4096


def offers_of(store: WarmPods) -> Waiters[str]:
    """Pods (by id) that wait for work here."""

    async def come(pod_ids: Sequence[str]) -> Sequence[str]:
        waiting = set(await store.still_waiting(pod_ids))
        return [pod_id for pod_id in pod_ids if pod_id not in waiting]

    return Waiters(come, look_seconds=LOOK_SECONDS, anew=True)


class NextApi:
    """`offers`: pods that wait, told by whoever gives them work. `poll_seconds`: until one is told to ask again."""

    def __init__(
        self, store: WarmPods, *, offers: Waiters[str], metrics: Metrics, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._offers = offers
        self._poll_seconds = poll_seconds
        self._next: Batcher[tuple[PodSession, NextRequest], bool] = Batcher(
            store.next_work, batch_observer(metrics, "next")
        )

    def routes(self) -> list[Route]:
        """What belongs below the app's router."""
        return [Route(f"{PREFIX}/next", self.next, methods=["POST"])]

    async def next(self, request: Request) -> Response:
        """Answer as soon as there is work for the pod, or it is to end (410)."""
        session = session_of(request)
        asked = parse_wire(_NEXT, await read_body(request, _SMALL_BODY, "it only tells how the pod is"))
        if await self._next.submit((session, asked)):
            return json_response(NextAnswer(work=True))
        come = await self._offers.wait(session.pod_id, self._poll_seconds)
        # whoever tells has given it an attempt: /start finds out whether it is still there
        work = come is Come.TOLD or (come is Come.SEEN and await self._next.submit((session, asked)))
        return json_response(NextAnswer(work))
