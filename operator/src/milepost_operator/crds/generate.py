"""Models to CustomResourceDefinitions with structural schemas. Pure: the same models give the same text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from milepost.wire.values import JSON
from milepost_operator.crds.common import GROUP, VERSION, Model
from milepost_operator.crds.queue import Queue
from milepost_operator.crds.run import Run
from milepost_operator.crds.task import Task

Schema = dict[str, JSON]

_DROPPED: Final = frozenset({"title", "default", "$defs"})
_FIRST: Final = ("description", "type")
_BY_NAME: Final = frozenset({"properties"})


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; `wide` ones need `-o wide`."""

    name: str
    path: str
    kind: str = "string"
    wide: bool = False

    def manifest(self) -> Schema:
        made: Schema = {"name": self.name, "type": self.kind, "jsonPath": self.path}
        return made | ({"priority": 1} if self.wide else {})


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind: its model, its names and what kubectl shows of it."""

    model: type[Model]
    plural: str
    short: str
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return self.model.__name__


_AGE: Final = Column("Age", ".metadata.creationTimestamp", "date")

RESOURCES: Final = (
    Resource(
        Task,
        "tasks",
        "mtask",
        (
            Column("Queue", ".status.queue"),
            Column("Version", ".status.version", "integer"),
            Column("Accepted", '.status.conditions[?(@.type=="Accepted")].status'),
            Column("Next run", ".status.nextRun"),
            Column("Warm", ".status.warm.idle", "integer"),
            Column("Busy", ".status.warm.busy", "integer"),
            _AGE,
            Column("Hits", ".status.warm.hits", "integer", wide=True),
            Column("Misses", ".status.warm.misses", "integer", wide=True),
            Column("Cold because", ".status.warm.coldReason", wide=True),
            Column("Image", ".spec.image", wide=True),
            Column("Reason", '.status.conditions[?(@.type=="Accepted")].reason', wide=True),
        ),
        (".spec.queue",),
    ),
    Resource(
        Run,
        "runs",
        "mrun",
        (
            Column("Task", ".spec.task"),
            Column("Phase", ".status.phase"),
            Column("Attempt", ".status.attempt", "integer"),
            Column("Checkpoint", ".status.lastCheckpoint"),
            Column("Reason", ".status.reason"),
            _AGE,
            Column("Progress", ".status.progress", wide=True),
            Column("Queue", ".status.queue", wide=True),
            Column("Pod", ".status.podName", wide=True),
            Column("ID", ".status.runID", wide=True),
        ),
        (".spec.task", ".status.phase"),
    ),
    Resource(
        Queue,
        "queues",
        "mq",
        (
            Column("Depth", ".status.depth", "integer"),
            Column("Running", ".status.running", "integer"),
            Column("Limit", ".status.limit", "integer"),
            Column("Oldest", ".status.oldest", "date"),
            Column("Paused", '.status.conditions[?(@.type=="Paused")].status'),
            Column("Rate", ".status.rate"),
            _AGE,
            Column("Breaker", '.status.conditions[?(@.type=="BreakerOpen")].reason', wide=True),
            Column("Override", ".status.override", "integer", wide=True),
            Column("Message", '.status.conditions[?(@.type=="Paused")].message', wide=True),
        ),
    ),
)


def crd(resource: Resource) -> Schema:
    """The CustomResourceDefinition of one kind."""
    kind = resource.kind
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root(resource.model)},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [column.manifest() for column in resource.columns],
    }
    if resource.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in resource.selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "milepost"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": resource.plural,
                "singular": kind.lower(),
                "shortNames": [resource.short],
                "categories": ["milepost"],
            },
            "versions": [version],
        },
    }


def _root(model: type[Model]) -> Schema:
    schema = structural(model.model_json_schema(by_alias=True))
    properties = schema["properties"]
    if not isinstance(properties, dict):
        raise TypeError(f"{model.__name__} has no properties")
    common: Schema = {
        "apiVersion": {"type": "string", "description": "Version of this kind's schema."},
        "kind": {"type": "string", "description": "The kind of the object."},
        "metadata": {"type": "object"},
    }
    return schema | {"properties": common | properties}


def structural(schema: Schema) -> Schema:
    """A pydantic JSON schema as a structural one: no references, no null, no titles, no defaults."""
    definitions = schema.get("$defs", {})
    if not isinstance(definitions, dict):
        raise TypeError("$defs is not an object")
    return _plain(schema, definitions)


def _plain(schema: Mapping[str, JSON], definitions: Mapping[str, JSON]) -> Schema:
    merged = _inlined(schema, definitions)
    made: Schema = {}
    for key, value in merged.items():
        if key in _DROPPED:
            continue
        if key in _BY_NAME and isinstance(value, dict):
            made[key] = {
                name: _plain(sub, definitions) if isinstance(sub, dict) else sub for name, sub in value.items()
            }
        elif key == "const":
            made["enum"] = [value]
        elif key in {"items", "additionalProperties"} and isinstance(value, dict):
            made[key] = _plain(value, definitions)
        elif key == "description" and isinstance(value, str):
            made[key] = " ".join(value.split())
        else:
            made[key] = value
    return {key: made[key] for key in _FIRST if key in made} | made


def _inlined(schema: Mapping[str, JSON], definitions: Mapping[str, JSON]) -> Schema:
    """Follow `$ref`, and take the one alternative beside null; what the place says itself wins."""
    here = dict(schema)
    reference = here.pop("$ref", None)
    if isinstance(reference, str):
        target = definitions[reference.removeprefix("#/$defs/")]
        if not isinstance(target, dict):
            raise TypeError(f"{reference} is not a schema")
        return _inlined(target, definitions) | here
    choices = here.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        del here["anyOf"]
        others = [choice for choice in choices if choice != {"type": "null"}]
        if len(others) != 1 or not isinstance(others[0], dict):
            raise TypeError(f"not one type beside null: {choices}")
        return _inlined(others[0], definitions) | here
    return here


def all_crds() -> dict[str, Schema]:
    """File name to CustomResourceDefinition."""
    return {f"{GROUP}_{resource.plural}.yaml": crd(resource) for resource in RESOURCES}
