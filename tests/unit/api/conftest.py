"""The app over the memory store, with a Kubernetes that knows three pods' tokens."""

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from milepost.wire.pod import Fence
from milepost_operator.adapters.kube.tokenreview import PodIdentity
from milepost_operator.api.app import ApiSettings, ApiStore, build_app
from milepost_operator.api.health import Health
from milepost_operator.api.next import offers_of
from milepost_operator.api.sessions import Sessions
from milepost_operator.api.tokens import ApiTokens
from milepost_operator.api.waiting import Waiters
from milepost_operator.domain.errors import UnauthenticatedError, UnavailableError
from milepost_operator.domain.runs import NewRun
from milepost_operator.obs.metrics import Metrics
from tests.fakes.memory_rows import FakePod
from tests.fakes.memory_store import MemoryStore

TEAM_TOKEN = "team-token-0123456789"
ROOT_TOKEN = "root-token-0123456789"
LIMIT = 4096


@dataclass
class Bench:
    """Everything a test touches. `now`: the clock of session tokens."""

    store: MemoryStore
    app: FastAPI
    client: httpx2.AsyncClient
    sessions: Sessions
    metrics: Metrics
    clock: dict[str, float]
    kube: dict[str, bool]
    offers: Waiters[str]
    pokes: list[None] = field(default_factory=list)

    async def pod(self, pod_id: str = "aaaa", namespace: str = "team") -> "Sidecar":
        """A pod with a started attempt of a new run."""
        created = await self.store.create_run(NewRun(namespace, "index", "{}"))
        return await self.sidecar(self.store.launch(created.run_id, pod_id))

    async def sidecar(self, pod: FakePod) -> "Sidecar":
        sidecar = Sidecar(self.client, pod, {})
        answer = await sidecar.open()
        assert answer.status_code == 200, answer.text
        sidecar.headers = {"Authorization": f"Bearer {answer.json()['token']}"}
        assert (await sidecar.post("start")).status_code == 200
        return sidecar

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@dataclass
class Sidecar:
    client: httpx2.AsyncClient
    row: FakePod
    headers: dict[str, str]

    @property
    def fence(self) -> dict[str, Any]:
        return asdict(Fence(str(self.row.run_id), self.row.attempt, self.row.token))

    async def open(self, bearer: str | None = None, **fields: object) -> httpx2.Response:
        token = bearer or f"sa:{self.row.namespace}:{self.row.pod_id}"
        body = {"pod_id": self.row.pod_id} | fields
        return await self.client.post("/pod/v1/session", json=body, headers={"Authorization": f"Bearer {token}"})

    async def post(self, route: str, body: object = None, **changes: Any) -> httpx2.Response:
        return await self.client.post(f"/pod/v1/{route}", json=body, headers=self.headers, **changes)

    async def get(self, route: str, **params: object) -> httpx2.Response:
        return await self.client.get(f"/pod/v1/{route}", params={**self.fence, **params}, headers=self.headers)

    async def write(self, key: str, value: str = "1", write_id: str | None = None, **fields: Any) -> httpx2.Response:
        record = {"write_id": write_id or f"w-{key}", "kind": "step", "key": key, "value": value} | fields
        return await self.post("records", {"fence": self.fence, "records": [record]})


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"# who may call\nteam-ci:team:{TEAM_TOKEN}\n\nroot:*:{ROOT_TOKEN}\n")
    return file


@pytest.fixture
async def bench(token_file: Path) -> AsyncIterator[Bench]:
    store, metrics, clock, kube = MemoryStore(), Metrics(), {"now": 1000.0}, {"down": False}
    sessions = Sessions(b"k" * 32, lambda: clock["now"])
    pokes: list[None] = []

    async def identify(token: str) -> PodIdentity:
        if kube["down"]:
            raise UnavailableError("Kubernetes can't review tokens now")
        match token.split(":"):
            case ["sa", namespace, pod_id]:
                return PodIdentity(namespace, "default", f"mp-{pod_id}-x1y2z", f"uid-{pod_id}")
        raise UnauthenticatedError("unknown token")

    offers = offers_of(store)
    checked: ApiStore = store  # type: ignore[assignment]  # the fake has what the api calls, and no more
    app = build_app(
        checked,
        identify,
        ApiSettings(max_record_bytes=LIMIT, max_result_bytes=LIMIT, max_input_bytes=LIMIT),
        sessions=sessions,
        tokens=ApiTokens(token_file),
        metrics=metrics,
        health=Health(store.ready, lambda: {"pulse": 0.5}),
        poke=lambda: pokes.append(None),
        offers=offers,
    )
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api") as client:
        yield Bench(store, app, client, sessions, metrics, clock, kube, offers, pokes)


@pytest.fixture
def team() -> dict[str, str]:
    return {"Authorization": f"Bearer {TEAM_TOKEN}"}


@pytest.fixture
def root() -> dict[str, str]:
    return {"Authorization": f"Bearer {ROOT_TOKEN}"}
