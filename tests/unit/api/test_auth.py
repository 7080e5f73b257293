from pathlib import Path

import pytest
from starlette.routing import Route

from milepost_operator.api.auth import OPEN_PATHS
from milepost_operator.api.sessions import KeyFileError, Sessions, read_session_key
from milepost_operator.api.tokens import ApiTokens
from milepost_operator.domain.errors import UnauthenticatedError
from milepost_operator.domain.runs import PodSession
from tests.unit.api.conftest import TEAM_TOKEN, Bench

BAD_HEADERS = [
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": "Bearer nothing"},
    {"Authorization": "Bearer null"},
    {"Authorization": f"Basic {TEAM_TOKEN}"},
    {"Authorization": TEAM_TOKEN},
    {"Authorization": f"Bearer {TEAM_TOKEN} x"},
    {"Authorization": f"Bearer {TEAM_TOKEN[:-1]}"},
    {"Authorization": "Bearer mps1.e30=.x"},
    {"Authorization": "Bearer mps1.."},
    {"Authorization": "Bearer \u00e4\u00f6"},
]


@pytest.mark.parametrize("headers", BAD_HEADERS)
@pytest.mark.parametrize("path", ["/v1/runs", "/pod/v1/start", "/pod/v1/session", "/nowhere", "/metrics", "/docs", "/"])
async def test_nobody_gets_in_without_a_good_token(bench: Bench, path: str, headers: dict[str, str]) -> None:
    raw = {k: v.encode("latin-1") for k, v in headers.items()}
    answer = await bench.client.post(path, headers=raw, json={"pod_id": "aaaa"})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["code"] == "unauthenticated"


async def test_every_route_but_the_open_ones_needs_a_token(bench: Bench) -> None:
    walked = 0
    paths = {route.path for route in bench.app.routes if isinstance(route, Route)}
    paths |= set(bench.app.openapi()["paths"])
    for path in paths - OPEN_PATHS:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"):
            answer = await bench.client.request(method, path.replace("{run}", "x"))
            assert answer.status_code == 401, (method, path)
            walked += 1
    assert walked >= 7 * 10
    for path in OPEN_PATHS:
        assert (await bench.client.get(path)).status_code == 200, path


async def test_two_authorization_headers_are_refused(bench: Bench) -> None:
    headers = [("Authorization", f"Bearer {TEAM_TOKEN}"), ("Authorization", "Bearer x")]
    assert (await bench.client.get("/v1/runs", headers=headers)).status_code == 401


async def test_tokens_of_one_api_are_none_of_the_other(bench: Bench, team: dict[str, str]) -> None:
    sidecar = await bench.pod()
    assert (await bench.client.get("/v1/runs", headers=sidecar.headers)).status_code == 401
    assert (await bench.client.post("/pod/v1/start", headers=team)).status_code == 401


async def test_a_session_ends_and_a_new_one_gives_the_same_attempt(bench: Bench) -> None:
    sidecar = await bench.pod()
    bench.clock["now"] += 899
    assert (await sidecar.post("start")).status_code == 200
    bench.clock["now"] += 1
    assert (await sidecar.post("start")).status_code == 401
    again = await bench.sidecar(sidecar.row)
    assert (await again.post("start")).json()["attempt"] == 1


async def test_a_session_renews_itself_while_kubernetes_is_away(bench: Bench) -> None:
    sidecar = await bench.pod()
    bench.kube["down"] = True
    answer = await sidecar.open()
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    bench.clock["now"] += 600
    token = sidecar.headers["Authorization"].removeprefix("Bearer ")
    renewed = await sidecar.open(token)
    assert renewed.status_code == 200
    assert renewed.json()["expires_in_seconds"] == 900
    bench.clock["now"] += 600
    assert (await sidecar.open(token)).status_code == 401  # the old one is over
    assert (await sidecar.open(renewed.json()["token"])).status_code == 200


async def test_a_renewal_ends_with_the_pods_row(bench: Bench) -> None:
    sidecar = await bench.pod()
    sidecar.row.closed = True
    assert (await sidecar.open(sidecar.headers["Authorization"].removeprefix("Bearer "))).status_code == 410


@pytest.mark.parametrize(
    ("bearer", "status"),
    [("sa:team:bbbb", 403), ("sa:other:aaaa", 403), ("garbage", 401), ("sa:team:aaaa", 200)],
)
async def test_a_session_is_for_the_pod_that_the_token_is_bound_to(bench: Bench, bearer: str, status: int) -> None:
    sidecar = await bench.pod("aaaa")
    assert (await sidecar.open(bearer)).status_code == status


async def test_a_session_of_another_key_pod_or_payload_is_refused(bench: Bench) -> None:
    sidecar = await bench.pod()
    session = PodSession("aaaa", "team", "uid-aaaa")
    forged = Sessions(b"x" * 32, lambda: bench.clock["now"]).sign(session, "mp-aaaa-x1y2z")
    good = bench.sessions.sign(session, "mp-aaaa-x1y2z")
    payload, mac = good.removeprefix("mps1.").split(".")
    other = bench.sessions.sign(PodSession("bbbb", "team", "uid-bbbb"), "mp-bbbb-x")
    mixed = f"mps1.{other.removeprefix('mps1.').split('.')[0]}.{mac}"
    for token in (forged, mixed, f"mps1.{payload}.{mac[:-2]}", f"{payload}.{mac}", good + "="):
        sidecar.headers = {"Authorization": f"Bearer {token}"}
        assert (await sidecar.post("start")).status_code == 401, token
    sidecar.headers = {"Authorization": f"Bearer {good}"}
    assert (await sidecar.post("start")).status_code == 200


async def test_another_pods_attempt_can_not_be_written(bench: Bench) -> None:
    mine, theirs = await bench.pod("aaaa"), await bench.pod("bbbb")
    mine.row = theirs.row
    for answer in (
        await mine.write("k"),
        await mine.get("records"),
        await mine.get("records/newest", kind="step", key="k"),
        await mine.post("heartbeat", {"fence": mine.fence}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no token"),
        ("# only a comment\n\n", "holds no token"),
        ("name:token-without-namespace\n", "line 1"),
        ("name::0123456789abcdef\n", "line 1"),
        (":team:0123456789abcdef\n", "line 1"),
        ("a:team:short\n", "16 characters"),
        ("a:team:\n", "16 characters"),
        ("a:team:0123456789 abcdef\n", "16 characters"),
        ("a:team:0123456789abcdef\nb:team:0123456789abcdef\n", "line 2"),
        ("a:team:0123456789abcdef\na:team:0123456789abcdeg\n", "line 2"),
    ],
)
def test_a_useless_token_file_is_refused_and_tokens_are_not_told(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)
    with pytest.raises(KeyFileError, match=says) as caught:
        ApiTokens(file)
    assert "0123456789" not in str(caught.value)


def test_a_missing_token_file_is_refused_and_none_lets_nobody_in(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="can't be read"):
        ApiTokens(tmp_path / "none")
    with pytest.raises(UnauthenticatedError):
        ApiTokens(None).caller("anything")


def test_a_changed_token_file_is_taken_up_and_a_broken_one_is_not(token_file: Path) -> None:
    tokens = ApiTokens(token_file)
    token_file.write_text("new:team:new-token-0123456789\n")
    tokens.reload()
    assert tokens.caller("new-token-0123456789").name == "new"
    with pytest.raises(UnauthenticatedError):
        tokens.caller(TEAM_TOKEN)
    token_file.write_text("")
    tokens.reload()
    assert tokens.caller("new-token-0123456789").name == "new"


@pytest.mark.parametrize("size", [0, 31])
def test_a_short_session_key_is_refused(tmp_path: Path, size: int) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"x" * size)
    with pytest.raises(KeyFileError, match=f"{size} bytes"):
        read_session_key(file)
    with pytest.raises(KeyFileError, match="not set"):
        read_session_key(None)
    with pytest.raises(KeyFileError, match="can't be read"):
        read_session_key(tmp_path / "none")
