# ruff: noqa: ARG002 (signatures of a client)
"""Informer and lease against an API server of a few lines."""

import asyncio
import copy

import pytest

from milepost_operator.adapters.kube.errors import KubeConflict, KubeGone, KubeNotFound, KubeUnavailable
from milepost_operator.adapters.kube.informer import Informer
from milepost_operator.adapters.kube.lease import Lease
from milepost_operator.domain.errors import DeposedError


def pod(name, version, **extra):
    return {"metadata": {"name": name, "uid": name, "resourceVersion": str(version), "managedFields": [1], **extra}}


class Server:
    """`pages`: answers to lists in turn; `events`: what each watch yields, an exception ends it."""

    def __init__(self, pages, watches=()):
        self.pages = list(pages)
        self.watches = list(watches)
        self.lists = []
        self.from_versions = []
        self.idle = asyncio.Event()

    async def list(self, path, params):
        self.lists.append(dict(params))
        page = self.pages.pop(0)
        if isinstance(page, Exception):
            raise page
        return page

    async def watch(self, path, params):
        self.from_versions.append(params["resourceVersion"])
        if not self.watches:
            self.idle.set()
            await asyncio.Event().wait()
        for event in self.watches.pop(0):
            if isinstance(event, Exception):
                raise event
            yield copy.deepcopy(event)


def page(*items, version=10, token=None):
    return {"items": list(items), "metadata": {"resourceVersion": str(version), "continue": token}}


async def settled(server, on_change=lambda: None):
    informer = Informer(server, "/api/v1/pods", "a=b", on_change)
    task = asyncio.create_task(informer.run())
    async with asyncio.timeout(5):
        await server.idle.wait()
    task.cancel()
    return {item["metadata"]["name"]: item for item in informer.objects()}, informer


async def test_a_list_is_taken_page_by_page():
    server = Server([page(pod("a", 1), token="next"), page(pod("b", 2))])
    found, informer = await settled(server)
    assert set(found) == {"a", "b"}
    assert [one.get("continue") for one in server.lists] == [None, "next"]
    assert server.lists[0]["labelSelector"] == "a=b"
    assert "managedFields" not in found["a"]["metadata"]
    assert informer.synced()


async def test_events_change_the_cache_and_bookmarks_only_the_version():
    events = [
        {"type": "ADDED", "object": pod("b", 11)},
        {"type": "DELETED", "object": pod("a", 12)},
        {"type": "BOOKMARK", "object": pod("", 20)},
    ]
    changes = []
    server = Server([page(pod("a", 1))], [events])
    found, _ = await settled(server, lambda: changes.append(1))
    assert set(found) == {"b"}
    assert server.from_versions == ["10", "20"]
    assert len(changes) == 3


def test_how_something_was_as_it_was_deleted_is_known_for_a_minute():
    now = [100.0]
    informer = Informer(Server([]), "/api/v1/pods", "a=b", remember=60, clock=lambda: now[0])
    informer.take("ADDED", pod("a", 1))
    informer.take("DELETED", pod("a", 2, end="told"))
    now[0] += 59
    informer.take("DELETED", pod("b", 3))
    assert [(one["metadata"]["name"], one["metadata"].get("end")) for one in informer.gone()] == [
        ("a", "told"),
        ("b", None),
    ]
    now[0] += 2
    assert [one["metadata"]["name"] for one in informer.gone()] == ["b"]
    assert informer.objects() == []


async def test_what_was_deleted_while_the_version_was_too_old_is_gone_after_the_relist():
    server = Server(
        [page(pod("a", 1), pod("b", 2)), page(pod("b", 2), version=50)],
        [[KubeGone(410, "Expired", "too old")]],
    )
    found, _ = await settled(server)
    assert set(found) == {"b"}
    assert server.from_versions == ["10", "50"]


async def test_a_broken_watch_goes_on_from_where_it_was(monkeypatch):
    naps = []
    real = asyncio.sleep

    async def nap(seconds):
        naps.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", nap)
    broken = [{"type": "ADDED", "object": pod("b", 11)}, KubeUnavailable(0, "ConnectionBroken", "gone")]
    server = Server([page(pod("a", 1))], [broken])
    found, _ = await settled(server)
    assert set(found) == {"a", "b"}
    assert server.from_versions == ["10", "11"]
    assert len(server.lists) == 1
    assert naps


def test_a_silent_watch_is_not_believed():
    now = [0.0]
    informer = Informer(Server([]), "/", "", clock=lambda: now[0])
    assert not informer.synced()
    informer.take("ADDED", pod("a", 1))
    assert informer.synced()
    now[0] = 200.0
    assert not informer.synced()


# the lease


class Leases:
    def __init__(self):
        self.lease = None
        self.version = 0
        self.down = False

    def _answer(self):
        if self.down:
            raise KubeUnavailable(0, "NoAnswer", "down")

    async def get(self, path):
        self._answer()
        if self.lease is None:
            raise KubeNotFound(404, "NotFound", "no lease")
        return copy.deepcopy(self.lease)

    async def create(self, path, body):
        self._answer()
        if self.lease is not None:
            raise KubeConflict(409, "AlreadyExists", "there")
        return self._keep(body)

    async def replace(self, path, body):
        self._answer()
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise KubeConflict(409, "Conflict", "stale")
        return self._keep(body)

    def _keep(self, body):
        self.version += 1
        self.lease = copy.deepcopy(body)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return self.lease

    @property
    def holder(self):
        return self.lease["spec"]["holderIdentity"]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def contender(server, identity, clock):
    return Lease(server, "ns", "l", identity, clock=clock)


async def test_one_takes_the_lease_and_the_other_waits():
    server, clock = Leases(), Clock()
    a, b = contender(server, "a", clock), contender(server, "b", clock)
    assert await a.attempt()
    assert not await b.attempt()
    assert server.holder == "a"


async def test_a_lease_that_is_not_renewed_for_its_duration_is_taken():
    server, clock = Leases(), Clock()
    a, b = contender(server, "a", clock), contender(server, "b", clock)
    await a.attempt()
    assert not await b.attempt()
    clock.now = 14.0
    assert not await b.attempt()
    clock.now = 15.0
    assert await b.attempt()
    assert server.lease["spec"]["leaseTransitions"] == 1
    assert not await a.attempt()


async def test_a_renewed_lease_is_not_taken_however_long():
    server, clock = Leases(), Clock()
    a, b = contender(server, "a", clock), contender(server, "b", clock)
    for _ in range(20):
        assert await a.attempt()
        assert not await b.attempt()
        clock.now += 2
        await asyncio.sleep(0.001)


async def test_two_who_see_it_free_do_not_both_get_it():
    server, clock = Leases(), Clock()
    first = await asyncio.gather(*(contender(server, name, clock).attempt() for name in "abc"))
    assert sum(first) == 1


@pytest.fixture
def quick(monkeypatch):
    for name in ("DURATION_SECONDS", "RENEW_SECONDS", "RETRY_SECONDS"):
        value = {"DURATION_SECONDS": 1.0, "RENEW_SECONDS": 0.2, "RETRY_SECONDS": 0.02}[name]
        monkeypatch.setattr(f"milepost_operator.adapters.kube.lease.{name}", value)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 (polls with a deadline)
            await asyncio.sleep(0.005)


@pytest.mark.usefixtures("quick")
async def test_a_leader_that_can_not_renew_stops_its_work():
    server = Leases()
    lease = Lease(server, "ns", "l", "a")
    ended = []

    async def lead():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    task = asyncio.create_task(lease.run(lead))
    await until(lambda: lease.leading)
    server.down = True
    await until(lambda: ended)
    assert not lease.leading
    server.down = False
    await until(lambda: lease.leading)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert server.holder == ""


@pytest.mark.usefixtures("quick")
async def test_a_deposed_leader_gives_the_lease_up_and_tries_again():
    server = Leases()
    lease = Lease(server, "ns", "l", "a")
    turns = []

    async def lead():
        turns.append(server.holder)
        raise DeposedError("another epoch")

    task = asyncio.create_task(lease.run(lead))
    await until(lambda: len(turns) > 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert set(turns) == {"a"}


@pytest.mark.usefixtures("quick")
async def test_any_other_error_ends_the_process():
    async def lead():
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        await Lease(Leases(), "ns", "l", "a").run(lead)
