import json
from collections.abc import Iterator

import pytest
from fastapi import APIRouter
from pydantic import BaseModel

from milepost_operator.api.openapi import DocumentedApp
from milepost_operator.api.routes import add_route
from tests.unit.api.conftest import Bench


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


@pytest.fixture
async def document(bench: Bench) -> dict[str, object]:
    return (await bench.client.get("/openapi.json")).json()


async def test_every_route_but_the_pods_is_in_the_document(document) -> None:
    paths = set(document["paths"])
    assert {"/v1/runs", "/v1/runs/{run}", "/v1/runs/{run}/attempts", "/v1/runs/{run}/cancel", "/healthz"} <= paths
    assert not [path for path in paths if path.startswith("/pod/")]


async def test_every_reference_leads_somewhere(document) -> None:
    schemas = document["components"]["schemas"]
    assert {ref.removeprefix("#/components/schemas/") for ref in references(document)} <= set(schemas)
    assert "$defs" not in json.dumps(document)


async def test_a_body_is_a_named_schema_that_takes_no_unknown_field(document) -> None:
    body = document["paths"]["/v1/runs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = document["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]
    assert {"task", "input", "namespace", "name", "idempotencyKey", "tags"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


async def test_every_operation_tells_its_problems_and_path_parameters(document) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            named = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
            assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}, where
            if path.startswith("/v1/"):
                assert "application/problem+json" in operation["responses"]["422"]["content"], where
                assert "401" in operation["responses"], where
            assert operation["description"], where


def test_two_models_of_one_name_are_an_error() -> None:
    def model(kind: type) -> type[BaseModel]:
        return type("Twin", (BaseModel,), {"__annotations__": {"x": kind}})

    router = APIRouter()
    for path, kind in (("/a", int), ("/b", str)):
        add_route(router, "POST", path, lambda _: ..., answers={200: model(int)}, body=model(kind))
    app = DocumentedApp()
    app.include_router(router)
    with pytest.raises(ValueError, match="Twin"):
        app.openapi()
