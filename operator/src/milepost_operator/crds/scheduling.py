"""Affinity and tolerations, as in a Pod."""

from typing import Annotated, Literal

from pydantic import Field

from milepost_operator.crds.common import Label, Model

LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")]
Labels = Annotated[dict[str, LabelValue], Field(max_length=32)]
Values = Annotated[list[LabelValue], Field(max_length=64)]
Weight = Annotated[int, Field(ge=1, le=100)]


class Toleration(Model):
    """A taint the pod accepts."""

    key: Annotated[str, Field(max_length=317)] | None = None
    """Key of the taint; empty with Exists: every taint."""
    operator: Literal["Exists", "Equal", "Lt", "Gt"] | None = None
    """How value is compared; Equal."""
    value: LabelValue | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; none: every effect."""
    toleration_seconds: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """With NoExecute: how long the pod stays."""


class NodeRequirement(Model):
    """One requirement on a node's label or field."""

    key: LabelKey
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How it is compared."""
    values: Values | None = None
    """With what."""


class NodeTerm(Model):
    """Requirements that hold together."""

    match_expressions: Annotated[list[NodeRequirement], Field(max_length=16)] | None = None
    """On labels."""
    match_fields: Annotated[list[NodeRequirement], Field(max_length=16)] | None = None
    """On fields."""


class NodeSelector(Model):
    """Any of the terms."""

    node_selector_terms: Annotated[list[NodeTerm], Field(min_length=1, max_length=16)]
    """The terms."""


class PreferredNode(Model):
    """A liking for some nodes."""

    weight: Weight
    """How much."""
    preference: NodeTerm
    """Which."""


class NodeAffinity(Model):
    """Which nodes."""

    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    """Must."""
    preferred_during_scheduling_ignored_during_execution: (
        Annotated[list[PreferredNode], Field(max_length=16)] | None
    ) = None
    """Should."""


class LabelRequirement(Model):
    """One requirement on a label."""

    key: LabelKey
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How it is compared."""
    values: Values | None = None
    """With what."""


class LabelSelector(Model):
    """Requirements that hold together."""

    match_labels: Labels | None = None
    """Labels and their values."""
    match_expressions: Annotated[list[LabelRequirement], Field(max_length=16)] | None = None
    """Requirements."""


class PodTerm(Model):
    """Pods to be near to, or far from."""

    topology_key: LabelKey
    """What near means: a node label, such as kubernetes.io/hostname."""
    label_selector: LabelSelector | None = None
    """Which pods."""
    namespaces: Annotated[list[Label], Field(max_length=16)] | None = None
    """Of which namespaces; this one."""
    namespace_selector: LabelSelector | None = None
    """Of which namespaces, by label."""


class PreferredPod(Model):
    """A liking."""

    weight: Weight
    """How much."""
    pod_affinity_term: PodTerm
    """Which."""


class PodAffinity(Model):
    """Near to, or far from, other pods."""

    required_during_scheduling_ignored_during_execution: Annotated[list[PodTerm], Field(max_length=16)] | None = None
    """Must."""
    preferred_during_scheduling_ignored_during_execution: Annotated[list[PreferredPod], Field(max_length=16)] | None = (
        None
    )
    """Should."""


class Affinity(Model):
    """Where the pod likes to run."""

    node_affinity: NodeAffinity | None = None
    """Which nodes."""
    pod_affinity: PodAffinity | None = None
    """Near to other pods."""
    pod_anti_affinity: PodAffinity | None = None
    """Far from other pods."""
