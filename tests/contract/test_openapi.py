"""All that the OpenAPI document lets one send, and much that it doesn't, to the real server over a real Postgres:
no internal error, no hang, each answer as documented, each refusal a problem.
"""

import asyncio
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx2
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from milepost_operator.adapters.postgres.store import PostgresStore
from milepost_operator.domain.runs import NewRun, Retry
from milepost_operator.settings import Settings
from tests.integration.conftest import _with_database
from tests.integration.engine import NS, Pod, apply_task, next_pod
from tests.seeds import SEED
from tests.serving import serving

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi import checks

DOCUMENT = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())
TOKEN = "contract-token-0123456789"
EXAMPLES = 25
SLOW_SECONDS = 10.0
CHECKS = (
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
)
OPERATIONS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]


def operation_of(method: str, path: str) -> dict[str, Any]:
    operation: dict[str, Any] = DOCUMENT["paths"][path][method]
    return operation


CALLS = [
    (method, path, mode)
    for method, path in OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE
    or {"requestBody", "parameters"} & {key for key, value in DOCUMENT["paths"][path][method].items() if value}
]
NASTY = [
    "'; drop table runs; --",
    "' or 1=1 --",
    "\\",
    "%",
    "_%",
    "$1",
    "{}",
    "\u202e",
    "ｎａｍｅ",
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    "null",
    "-1",
    "1e309",
    "9" * 40,
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "2026-02-30T00:00:00Z",
    "x" * 10_000,
    "\x00",
    "\x7f",
    "",
    " ",
]


async def _fill(uri: str) -> list[str]:
    """A database with runs of every kind: waiting, held, at work, ended, dead letters. Returns their names."""
    admin = await asyncpg.connect(uri)
    await admin.execute("create database contract template milepost_template")
    await admin.close()
    async with PostgresStore.open(Settings(database_url=_with_database(uri, "contract"))) as store:
        await apply_task(store, retry=Retry(max_attempts=1))
        names = []
        for number in range(8):
            run = await store.create_run(NewRun(NS, "index", "{}", tags=("a",)))
            names.append(run.name)
            pod: Pod = await next_pod(store)
            await pod.write("first")
            await (pod.succeed() if number % 2 else pod.fail())
        for task in ("index", "index", "missing"):
            names.append((await store.create_run(NewRun(NS, task, "{}", idempotency_key=f"k{len(names)}"))).name)
        return names


@pytest.fixture(scope="module")
def names(postgres_uri: str, template: str) -> list[str]:  # noqa: ARG001
    return asyncio.run(_fill(postgres_uri))


@pytest.fixture(scope="module")
def client(postgres_uri: str, names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:  # noqa: ARG001
    tokens = tmp_path_factory.mktemp("contract") / "tokens"
    tokens.write_text(f"contract:{NS}:{TOKEN}\n")
    configured = Settings(database_url=_with_database(postgres_uri, "contract"))
    with serving(configured, tokens, duties=True) as url:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx2.Client(base_url=url, headers=headers, timeout=SLOW_SECONDS) as opened:
            yield opened


def judged(answer: httpx2.Response) -> None:
    """No internal error, and a refusal says what, in the form of RFC 9457."""
    if answer.status_code < 400:
        return
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["type"] == f"urn:milepost:problem:{problem['code']}"
    assert problem["title"]
    assert problem["detail"]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("method", "path", "mode"), CALLS, ids=lambda part: getattr(part, "value", part).strip("/"))
def test_whatever_is_sent_the_answer_is_as_documented(
    client: httpx2.Client, names: list[str], method: str, path: str, mode: GenerationMode
) -> None:
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method.upper()]
    run = st.sampled_from([None, *names])

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), name=run, tame=st.booleans())
    def check(case: Any, name: str | None, tame: bool) -> None:
        if isinstance(case.query, dict) and isinstance(case.query.get("wait"), int | float):
            case.query["wait"] = min(case.query["wait"], 1)
        if tame and mode is GenerationMode.POSITIVE:
            _tame(case, names)
        if name and "{run}" in path:
            case.path_parameters = {**(case.path_parameters or {}), "run": name}
        began = time.monotonic()
        answer = case.call(
            base_url=str(client.base_url), headers={"Authorization": f"Bearer {TOKEN}"}, timeout=SLOW_SECONDS
        )
        assert time.monotonic() - began < SLOW_SECONDS
        if answer.status_code >= 400:
            judged(httpx2.Response(answer.status_code, headers=_plain(answer.headers), content=answer.content))
        if answer.status_code not in {404, 405}:  # a made-up path may name another route, or none
            case.validate_response(answer, checks=CHECKS)

    check()


def _tame(case: Any, names: list[str]) -> None:
    """Without what a schema can't tell to be wrong: a foreign cursor or namespace, both ways to name runs."""
    for part in (case.query, case.body):
        if isinstance(part, dict):
            part.pop("cursor", None)
            part.pop("namespace", None)
    if isinstance(case.body, dict) and case.operation.path in ("/v1/dead-letters/redrive", "/v1/dead-letters/discard"):
        case.body = {"runs": names[:3]} if "runs" in case.body else {"filter": {"task": "index"}}


def _plain(headers: Any) -> dict[str, str]:
    return {key: value if isinstance(value, str) else value[0] for key, value in headers.items()}


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda part: str(part).strip("/"))
def test_no_text_breaks_a_parameter(client: httpx2.Client, method: str, path: str) -> None:
    for parameter in DOCUMENT["paths"][path][method].get("parameters", []):
        for text in NASTY:
            within, name = parameter["in"] == "path", parameter["name"]
            target = path.replace(f"{{{name}}}", quote(text, safe="") or "%20") if within else path
            params = {} if within else {name: text}
            judged(client.request(method.upper(), target.replace("{run}", "some"), params=params))


@pytest.mark.parametrize(("method", "path"), [one for one in OPERATIONS if "requestBody" in operation_of(*one)])
def test_no_text_breaks_a_body(client: httpx2.Client, method: str, path: str) -> None:
    def sent(**what: Any) -> None:
        judged(client.request(method.upper(), path.replace("{", "").replace("}", ""), **what))

    reference = operation_of(method, path)["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    fields = DOCUMENT["components"]["schemas"][reference.rsplit("/", 1)[1]]["properties"]
    filters = DOCUMENT["components"]["schemas"]["FilterBody"]["properties"] if "filter" in fields else {}
    for text in NASTY:
        for field in fields:
            sent(json={field: text})
            sent(json={"filter": {"task": "none"}, "task": "index", field: [text]})
        for field in filters:
            sent(json={"filter": {"task": "none", field: text}})
            sent(json={"filter": {"task": "none", field: [text]}})
    for broken in (
        b"",
        b"{",
        b"[]",
        b"1",
        b"\xff",
        b"[" * 5000,
        b'{"filter": NaN}',
        b'{"filter": {"task": "\\ud800"}}',
    ):
        sent(content=broken)
