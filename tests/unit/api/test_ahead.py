"""What a pod asks for, and tells, before it has a run."""

from tests.unit.api.conftest import Bench


async def test_a_pod_asks_what_to_import(bench: Bench) -> None:
    sidecar = await bench.pod()
    answer = await sidecar.get("code")
    assert (answer.status_code, answer.json()) == (200, {"version": 1, "entrypoint": "index:main", "source": None})
    sidecar.row.closed = True
    assert (await sidecar.get("code")).status_code == 410


async def test_what_an_import_left_is_kept_as_far_as_anybody_reads(bench: Bench) -> None:
    sidecar = await bench.pod()
    assert (await sidecar.post("left", {"left": ["thread a\x00", "x" * 9000, *["y"] * 50]})).status_code == 204
    kept = bench.store.left[sidecar.row.pod_id]
    assert (kept[0], len(kept[1]) < 250, len(kept)) == ("thread a\ufffd", True, 20)
    assert (await sidecar.post("left", {"left": [1]})).status_code == 422
    assert (await sidecar.post("left", {"left": ["x" * 20_000]})).status_code == 413


async def test_nobody_else_asks(bench: Bench, team: dict[str, str]) -> None:
    assert (await bench.client.get("/pod/v1/code")).status_code == 401
    assert (await bench.client.post("/pod/v1/left", json={"left": ["x"]}, headers=team)).status_code == 401
