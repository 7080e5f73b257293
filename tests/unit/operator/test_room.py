"""Room for a pod that finds none: pods that only wait go for it, slowly, and not all of them."""

import pytest

from milepost_operator.reconcile.room import MOST_PODS, PAUSE_SECONDS, Room, is_full


class Waiting:
    """A store with so many pods that wait."""

    def __init__(self, pods: int) -> None:
        self.pods = pods
        self.asked = 0

    async def make_room(self, _epoch: int, _namespace: str | None) -> bool:
        self.asked += 1
        self.pods -= 1
        return self.pods >= 0

    async def retire_pod(self, _epoch: int, _pod_id: str, _why: str) -> None:
        raise AssertionError("nobody asked for it")


async def test_one_at_a_time() -> None:
    now, store = [0.0], Waiting(3)
    room = Room(store, 1, lambda: now[0])  # type: ignore[arg-type]
    assert await room.make("a", None)
    assert not await room.make("a", None), "what ends needs a moment"
    assert await room.make("b", None), "another pod is another matter"
    now[0] += PAUSE_SECONDS
    assert await room.make("a", None)
    now[0] += PAUSE_SECONDS
    assert not await room.make("a", None), "nobody waits any more"


async def test_what_fits_nowhere_does_not_drive_all_out() -> None:
    now, store = [0.0], Waiting(100)
    room = Room(store, 1, lambda: now[0])  # type: ignore[arg-type]
    for _ in range(30):
        await room.make("huge", None)
        now[0] += PAUSE_SECONDS
    assert store.pods == 100 - MOST_PODS


async def test_where_nobody_waits_hundreds_ask_but_once() -> None:
    now, store = [0.0], Waiting(0)
    room = Room(store, 1, lambda: now[0])  # type: ignore[arg-type]
    for number in range(300):
        assert not await room.make(f"pod-{number}", None)
    assert store.asked == 1
    assert not await room.make("pod-1", "elsewhere")
    assert store.asked == 2
    now[0] += PAUSE_SECONDS
    await room.make("pod-2", None)
    assert store.asked == 3


@pytest.mark.parametrize(
    ("message", "full"),
    [
        ("0/1 nodes are available: 1 Insufficient memory. preemption: 0/1 nodes are available", True),
        ("0/3 nodes are available: 3 Too many pods", True),
        ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector", False),
    ],
)
def test_only_what_would_fit_is_made_room_for(message: str, full: bool) -> None:
    assert is_full(message) == full
