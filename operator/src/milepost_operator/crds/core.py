"""The core Kubernetes shapes a Task may use: environment, resources. Same field names as in a Pod."""

from typing import Annotated

from pydantic import Field

from milepost_operator.crds.common import MAX_QUANTITIES, Model, Name, Quantity, keyed, rule, rules

ENV_NAME = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"
_POSITIVE = "{0}.all(k, isQuantity(string({0}[k])) && quantity(string({0}[k])).isGreaterThan(quantity('0')))"
_WITHIN = (
    "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || "
    "quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)"
)
_NOT_NEGATIVE = "self.requests.all(k, quantity(string(self.requests[k])).compareTo(quantity('0')) >= 0)"

ConfigKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
Path = Annotated[str, Field(min_length=1, max_length=1024)]


class KeyRef(Model):
    """One key of a Secret or ConfigMap."""

    name: Name
    """Name of the object."""
    key: ConfigKey
    """Its key."""
    optional: bool | None = None
    """The pod starts without it."""


class FieldRef(Model):
    """A field of the pod, such as `metadata.name`."""

    field_path: Path
    """Path of the field."""
    api_version: Annotated[str, Field(max_length=32)] | None = None
    """Version of the schema the path is written for; `v1`."""


class ResourceFieldRef(Model):
    """A resource of the container, such as `limits.memory`."""

    resource: Annotated[str, Field(min_length=1, max_length=253)]
    """Which resource."""
    container_name: Annotated[str, Field(max_length=63)] | None = None
    """Of which container; needed in volumes."""
    divisor: Quantity | None = None
    """Unit of the value."""


class EnvSource(Model):
    """Where a variable's value comes from; the kubelet resolves it."""

    model_config = rules(
        rule(
            "[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.fieldRef), has(self.resourceFieldRef)]"
            ".filter(x, x).size() == 1",
            "valueFrom: set exactly one of secretKeyRef, configMapKeyRef, fieldRef and resourceFieldRef",
        ),
    )

    secret_key_ref: KeyRef | None = None
    """A key of a Secret."""
    config_map_key_ref: KeyRef | None = None
    """A key of a ConfigMap."""
    field_ref: FieldRef | None = None
    """A field of the pod."""
    resource_field_ref: ResourceFieldRef | None = None
    """A resource of the container."""


class EnvVar(Model):
    """One environment variable."""

    model_config = rules(
        rule("!(has(self.value) && has(self.valueFrom))", "env: value and valueFrom exclude each other"),
        rule("!self.name.startsWith('MILEPOST_')", "env: names that begin with MILEPOST_ are reserved", ".name"),
    )

    name: Annotated[str, Field(min_length=1, max_length=253, pattern=ENV_NAME)]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=32768)] | None = None
    """Its value, in the clear: use valueFrom for secrets."""
    value_from: EnvSource | None = None
    """Where its value comes from."""


class Ref(Model):
    """A whole Secret or ConfigMap."""

    name: Name
    """Name of the object."""
    optional: bool | None = None
    """The pod starts without it."""


class EnvFrom(Model):
    """Every key of a Secret or ConfigMap becomes a variable."""

    model_config = rules(
        rule("has(self.secretRef) != has(self.configMapRef)", "envFrom: set exactly one of secretRef and configMapRef"),
    )

    prefix: Annotated[str, Field(max_length=128, pattern=r"^[-._a-zA-Z0-9]*$")] | None = None
    """Put before each key."""
    secret_ref: Ref | None = None
    """The Secret."""
    config_map_ref: Ref | None = None
    """The ConfigMap."""


Env = Annotated[list[EnvVar], Field(max_length=256, json_schema_extra=keyed("name"))]
EnvFroms = Annotated[list[EnvFrom], Field(max_length=32)]
Quantities = Annotated[dict[str, Quantity], Field(max_length=MAX_QUANTITIES)]


class Resources(Model):
    """Requests and limits of the task container, as in a Pod (extended resources such as GPUs too)."""

    model_config = rules(
        rule(
            f"!has(self.limits) || {_POSITIVE.format('self.limits')}",
            "resources.limits: every limit must be a quantity above 0",
            ".limits",
        ),
        rule(
            f"!has(self.requests) || {_NOT_NEGATIVE}",
            "resources.requests: a request can't be negative",
            ".requests",
        ),
        rule(_WITHIN, "resources.requests: a request can't be above its limit", ".requests"),
    )

    requests: Quantities | None = None
    """What the scheduler sets aside; 50m CPU and 128Mi memory unless the chart says otherwise."""
    limits: Quantities | None = None
    """What the container may use; 1 CPU and 512Mi memory unless the chart says otherwise."""
