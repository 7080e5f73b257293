"""The OpenAPI document of the public API, made of its routes."""

from typing import Final

from fastapi import FastAPI

_SECURITY: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token of the API. The namespace comes from the token; one that may name any takes `namespace`.",
}
_ABOUT: Final = (
    "Durable tasks on Kubernetes. Errors are problem+json (RFC 9457) with a stable `code`; where one of your values is"
    " at fault, `path` says which. Lists go on by `nextCursor` until it is null, and never count."
)


class DocumentedApp(FastAPI):
    """FastAPI, whose document also has what our routes say of bodies, queries, problems and the token."""

    def openapi(self) -> dict[str, object]:
        if self.openapi_schema is None:
            self.description = _ABOUT
            self.openapi_schema = _completed(super().openapi())
        return self.openapi_schema


def _completed(document: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    hoisted = _hoisted(document, found)
    if not isinstance(hoisted, dict):
        raise TypeError("an OpenAPI document is an object")
    components = hoisted.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name, schema in found.items():
        _settle(schemas, name, schema)
    components["schemas"] = dict(sorted(schemas.items()))
    components["securitySchemes"] = {"token": _SECURITY}
    hoisted["security"] = [{"token": []}]
    return hoisted


def _hoisted(node: object, found: dict[str, object]) -> object:
    """The same without `$defs`: the definitions go to `found`, under their names."""
    if isinstance(node, list):
        return [_hoisted(one, found) for one in node]
    if not isinstance(node, dict):
        return node
    for name, schema in node.get("$defs", {}).items():
        _settle(found, name, _hoisted(schema, found))
    return {key: _hoisted(value, found) for key, value in node.items() if key != "$defs"}


def _settle(schemas: dict[str, object], name: str, schema: object) -> None:
    if schemas.setdefault(name, schema) != schema:
        raise ValueError(f"two models of the API are named {name}: give one of them another name")
