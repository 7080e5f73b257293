"""Tasks and Queues as objects, and how those that are there already differ from them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from milepost.errors import MilepostError
from milepost.schema import input_schema, output_schema
from milepost.sdk.queue import Queue, Rate
from milepost.sdk.task import TaskFunction
from milepost.wire.values import JSON, member

API_VERSION: Final = "milepost.dev/v1beta1"
MAX_SCHEMA: Final = 65_536
OWNED: Final = ("entrypoint", "inputSchema", "outputSchema")
"""What only the code says of a Task: it goes where the code does not say it any more."""
_SHOWN: Final = 60

Object = dict[str, JSON]


class ManifestError(MilepostError):
    """No manifest can be made of it; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Options:
    """What code can't know. Exactly one of image and source (Python text), or neither where the file says it."""

    image: str | None = None
    source: str | None = None
    namespace: str | None = None


def objects(tasks: Iterable[tuple[str, TaskFunction[..., object]]], options: Options) -> list[Object]:
    """The objects of tasks by their entrypoints: each Queue that has limits, then the Tasks. Raises ManifestError."""
    made: list[Object] = []
    queues: dict[str, Queue] = {}
    for entrypoint, task in tasks:
        if task.queue is not None and (limits := _queue(task.queue)):
            first = queues.setdefault(task.queue.name, task.queue)
            if first != task.queue:
                raise ManifestError(f"the queue {first.name} is declared in two ways: {first} and {task.queue}")
            queue = _object("Queue", task.queue.name, limits, options)
            if queue not in made:
                made.append(queue)
        made.append(_object("Task", task.id, _task(entrypoint, task, options), options))
    names = [str(cast("Object", one["metadata"])["name"]) for one in made if one["kind"] == "Task"]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ManifestError(f"two tasks have the id {twice}: give one another (@task(id=...))")
    return sorted(made, key=lambda one: one["kind"] != "Queue")


def _object(kind: str, name: str, spec: Object, options: Options) -> Object:
    metadata: Object = {"name": name}
    if options.namespace:
        metadata["namespace"] = options.namespace
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def _task(entrypoint: str, task: TaskFunction[..., object], options: Options) -> Object:
    spec: Object = {}
    if options.image is not None:
        spec["image"] = options.image
    if options.source is not None:
        spec["source"] = {"inline": options.source}
        entrypoint = f"task:{entrypoint.rpartition(':')[2]}"
    spec["entrypoint"] = entrypoint
    if task.queue is not None:
        spec["queue"] = task.queue.name
    for field, schema in (("inputSchema", input_schema(task)), ("outputSchema", output_schema(task))):
        if schema is None:
            continue
        size = len(json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode())
        if size > MAX_SCHEMA:
            raise ManifestError(
                f"the {field} of task {task.id} has {size} bytes and {MAX_SCHEMA} is the most: "
                "annotate with a smaller type, such as dict[str, object] for its biggest part"
            )
        spec[field] = schema
    return spec


def _queue(queue: Queue) -> Object:
    per_key = _kept(concurrency=queue.key_concurrency, rate=_rate(queue.key_rate))
    return _kept(
        concurrency=queue.concurrency, perKey=per_key or None, rate=_rate(queue.rate), maxDepth=queue.max_depth
    )


def _rate(rate: Rate | None) -> Object | None:
    return None if rate is None else {"limit": rate.limit, "periodSeconds": rate.period_seconds}


def _kept(**fields: JSON) -> Object:
    return {name: value for name, value in fields.items() if value is not None}


def merged(there: list[Object], wanted: list[Object]) -> list[Object]:
    """The objects of a file with what code says of them; what it says nothing of stays."""
    made = [dict(one) for one in there]
    for one in wanted:
        found = _find(made, one)
        if found is None:
            made.append(one)
            continue
        spec = dict(_part(found, "spec"))
        for field in OWNED:
            spec.pop(field, None)
        found["spec"] = _overlaid(spec, _part(one, "spec"))
    return made


def differences(there: list[Object], wanted: list[Object]) -> list[str]:
    """What code says and these objects don't: a line each, with its place."""
    lines: list[str] = []
    for one in wanted:
        kind, name = str(one["kind"]), str(_part(one, "metadata")["name"])
        found = _find(there, one)
        if found is None:
            lines.append(f"{kind} {name}: is missing")
            continue
        spec, said = _part(found, "spec"), _part(one, "spec")
        fields = [*said, *(field for field in OWNED if kind == "Task" and field in spec and field not in said)]
        for field in fields:
            lines += [
                f"{kind} {name}: {line}"
                for line in _differ(spec.get(field), said.get(field), f"spec.{field}", whole=field in OWNED)
            ]
    return lines


def _differ(there: JSON, said: JSON, path: str, *, whole: bool) -> list[str]:
    """`whole`: what the code does not say must not be there either."""
    if there == said and type(there) is type(said):
        return []
    if isinstance(there, dict) and isinstance(said, dict):
        return [
            line
            for key in [*said, *(key for key in there if whole and key not in said)]
            for line in _differ(there.get(key), said.get(key), member(path, key), whole=whole)
        ]
    return [f"{path} is {_shown(there)} and the code says {_shown(said)}"]


def _shown(value: JSON) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _find(objects: list[Object], like: Object) -> Object | None:
    """The object of this kind and name."""
    for one in objects:
        same_name = _part(one, "metadata").get("name") == _part(like, "metadata").get("name")
        if one.get("kind") == like["kind"] and same_name:
            return one
    return None


def _part(value: Mapping[str, JSON], name: str) -> Object:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _overlaid(base: Object, over: Object) -> Object:
    """Schemas are replaced whole; a limit beside those that code declares stays."""
    for key, value in over.items():
        inner = base.get(key)
        plain = key not in OWNED and isinstance(inner, dict) and isinstance(value, dict)
        base[key] = _overlaid(dict(cast("Object", inner)), cast("Object", value)) if plain else value
    return base
