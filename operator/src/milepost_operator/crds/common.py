"""What the kinds share: base model, bounded types, conditions, and the rules (CEL) that go with them."""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

GROUP: Final = "milepost.dev"
VERSION: Final = "v1beta1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
QUANTITY: Final = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
    r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)

MAX_QUANTITIES: Final = 16

Name = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
"""Name of an object of the same namespace."""
Label = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
Quantity = Annotated[
    int | str,
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "pattern": QUANTITY,
            "maxLength": 64,
        },
    ),
]
"""A Kubernetes quantity: `2`, `500m`, `1.5Gi`."""
AnyJSON = Annotated[object, WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})]
AnyObject = Annotated[
    dict[str, object], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
]
Text = Annotated[str, Field(max_length=1024)]
"""A sentence in a status."""
Word = Annotated[str, Field(max_length=253)]
"""A word, name or code in a status."""
Count = Annotated[int, Field(ge=0, le=2_147_483_647)]


def rule(expression: str, message: str, field: str | None = None) -> dict[str, str]:
    """A CEL validation; `field` (`.name`) is where the error points to."""
    made = {"rule": expression, "message": message}
    return made | {"fieldPath": field} if field else made


def rules(*validations: dict[str, str]) -> ConfigDict:
    """Model configuration that carries CEL validations into the CRD."""
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": [dict(one) for one in validations]})


class Model(BaseModel):
    """Base of all: camelCase in YAML, unknown fields are the API server's business (it prunes them)."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        extra="ignore",
        frozen=True,
    )


class Condition(Model):
    """One observation about the object."""

    type: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Z][A-Za-z0-9]*$")]
    """What is observed, in CamelCase."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=128)]
    """Why, in one CamelCase word for machines."""
    message: Text = ""
    """Why, in a sentence for people."""
    last_transition_time: datetime
    """When status last changed."""
    observed_generation: Count | None = None
    """metadata.generation this is about."""


Conditions = Annotated[
    list[Condition],
    Field(max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
]


SET: Final[dict[str, object]] = {"x-kubernetes-list-type": "set"}
"""Schema of a list in which nothing stands twice."""


def keyed(*keys: str) -> dict[str, object]:
    """Schema of a list whose items are told apart by `keys`: the API server refuses a second one."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}
