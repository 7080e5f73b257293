"""Short ways: a request goes past the router, and nobody behind it notices."""

from milepost_operator.api.direct import ShortWays


async def one(_scope, _receive, _send):
    raise NotImplementedError


async def many(_scope, _receive, _send):
    raise NotImplementedError


WAYS = ShortWays({("GET", "/v1/runs/{run}"): one, ("POST", "/v1/runs"): many})


def scope(method: str, path: str) -> dict:
    return {"type": "http", "method": method, "path": path}


def test_the_last_part_of_a_path_may_be_a_parameter():
    asked = scope("GET", "/v1/runs/index-x7k2")
    assert WAYS.find(asked) is one
    assert asked["path_params"] == {"run": "index-x7k2"}
    assert asked["route"].path == "/v1/runs/{run}"
    assert WAYS.find(scope("POST", "/v1/runs")) is many


def test_everything_else_takes_the_long_way():
    for method, path in (
        ("GET", "/v1/runs"),
        ("GET", "/v1/runs/"),
        ("GET", "/v1/runs/a/why"),
        ("GET", "/v1/runs/a/"),
        ("HEAD", "/v1/runs/a"),
        ("POST", "/v1/runs/a"),
        ("GET", "a"),
    ):
        asked = scope(method, path)
        assert WAYS.find(asked) is None
        assert "path_params" not in asked
    assert ShortWays().find(scope("GET", "/v1/runs/a")) is None
