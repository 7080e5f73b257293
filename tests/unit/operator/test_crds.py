"""What can be said of the CRDs without an API server."""

from collections.abc import Iterator
from typing import Any

import pytest

from milepost_operator.crds.generate import all_crds
from milepost_operator.crds.task import TaskSpec
from milepost_operator.domain.runs import Retry
from milepost_operator.manifests.names import event_name, label_value
from milepost_operator.manifests.quantity import value
from milepost_operator.manifests.shape import policy_of, shape_of
from tests.fakes.crd_samples import COMMAND, ENTRY, FULL, SOURCE
from tools.crds import rendered


def nodes(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, sub in schema.get("properties", {}).items():
        yield from nodes(sub, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


EVERY = [
    (f"{crd['spec']['names']['kind']}{path}", node)  # type: ignore[index,call-overload]
    for crd in all_crds().values()
    for path, node in nodes(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])  # type: ignore[index,call-overload]
]


def test_the_files_are_what_the_models_make():
    assert [path.name for path, text in rendered().items() if not path.exists() or path.read_text() != text] == []


def test_nothing_is_left_of_pydantics_own_dialect():
    for path, node in EVERY:
        assert not {"$ref", "$defs", "title", "default", "allOf", "oneOf", "const"} & set(node), path
        assert {"type": "null"} not in node.get("anyOf", []), path


def test_everything_has_a_bound():
    for path, node in EVERY:
        if node.get("type") == "string" and "enum" not in node and not path.endswith((".apiVersion", ".kind")):
            assert "maxLength" in node or node.get("format") == "date-time", path
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path
        if node.get("type") in {"integer", "number"}:
            assert {"minimum", "maximum"} <= set(node), path


def test_only_input_and_schemas_take_anything():
    loose = [path for path, node in EVERY if node.get("x-kubernetes-preserve-unknown-fields")]
    assert sorted(loose) == [
        "Run.spec.input",
        "Task.spec.inputSchema",
        "Task.spec.outputSchema",
        "Task.spec.schedules[].input",
    ]


def test_every_field_is_described():
    for path, node in EVERY:
        if "." in path and not path.endswith(("[]", ".metadata")):
            assert node.get("description"), path


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        (None, Retry()),
        ({"minSeconds": 120}, Retry(min_seconds=120, max_seconds=120)),
        ({"onOOM": {"maxMemory": "2Gi"}}, Retry(oom_factor=2.0, oom_max_bytes=2 * 1024**3)),
        ({"onOOM": {"maxMemory": "1G", "factor": 1.5}}, Retry(oom_factor=1.5, oom_max_bytes=10**9)),
        ({"maxSeconds": 0.5}, Retry(min_seconds=0.5, max_seconds=0.5)),
        ({"minSeconds": 0, "maxSeconds": 0}, Retry(min_seconds=0, max_seconds=0)),
        ({"maxAttempts": 1, "randomize": False}, Retry(max_attempts=1, randomize=False)),
    ],
)
def test_policy_has_defaults_that_fit_together(retry, expected):
    spec = TaskSpec.model_validate(ENTRY | ({"retry": retry} if retry is not None else {}))
    assert policy_of(spec).retry == expected


def test_the_shape_is_all_that_shapes_pods_and_nothing_else():
    base = shape_of(TaskSpec.model_validate(FULL))
    assert base == shape_of(TaskSpec.model_validate(FULL | {"queue": "x", "retry": {}, "timeouts": {"runSeconds": 5}}))
    for change in ({"image": "b"}, {"entrypoint": "m:g"}, {"env": []}, {"pod": {}}, {"resources": {}}):
        assert base != shape_of(TaskSpec.model_validate(FULL | change)), change
    assert shape_of(TaskSpec.model_validate(SOURCE)) == SOURCE
    assert shape_of(TaskSpec.model_validate(COMMAND)) == COMMAND


def test_equal_quantities_in_either_form_are_one_shape():
    one = shape_of(TaskSpec.model_validate(ENTRY | {"resources": {"limits": {"cpu": 1}}}))
    assert one == shape_of(TaskSpec.model_validate(ENTRY | {"resources": {"limits": {"cpu": "1"}}}))


@pytest.mark.parametrize("name", ["a", "a" * 63, "a" * 64, "a." * 100, "-", "x_", "ü" * 10, ""])
def test_label_values_are_valid_and_tell_names_apart(name):
    import re  # noqa: PLC0415

    made = label_value(name)
    assert len(made) <= 63
    assert re.fullmatch(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", made)
    assert made != label_value(f"{name}z")


def test_event_names_are_stable_and_fit():
    assert event_name("r" * 253, "id", 1) == event_name("r" * 253, "id", 1)
    assert event_name("r", "id", 1) != event_name("r", "id", 2)
    assert len(event_name("r" * 253, "id", 1)) <= 253


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1), ("500m", "0.5"), ("1Ki", 1024), ("1.5Gi", 1610612736), ("1e3", 1000)]
)
def test_quantities(text, number):
    from decimal import Decimal  # noqa: PLC0415

    assert value(text) == Decimal(number)
