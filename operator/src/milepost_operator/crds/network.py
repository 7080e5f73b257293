"""Which addresses a Task's pods may call (`spec.network`). Nobody calls them, whatever it says."""

from typing import Annotated, Literal

from pydantic import Field

from milepost_operator.crds.common import Model, rule, rules
from milepost_operator.crds.scheduling import LabelSelector

Number = Annotated[int, Field(ge=1, le=65_535)]


class NetworkPort(Model):
    """A port, or a range of them."""

    model_config = rules(
        rule("!has(self.endPort) || self.endPort >= self.port", "network: endPort must not be below port", ".endPort"),
    )

    protocol: Literal["TCP", "UDP", "SCTP"] | None = None
    """TCP."""
    port: Number
    """The port of the pod or server that is called, not of a Service before it."""
    end_port: Number | None = None
    """Last port of a range."""


class Destination(Model):
    """Addresses, or pods of this cluster; names of hosts can't be told apart by a NetworkPolicy."""

    model_config = rules(
        rule(
            "has(self.cidr) != (has(self.podSelector) || has(self.namespaceSelector))",
            "network.allow: set cidr, or podSelector and namespaceSelector (or one of these two)",
        ),
        rule(
            "!has(self.cidr) || self.cidr.matches('^[0-9a-fA-F:.]+/[0-9]+$')",
            "network.allow: cidr is an address and the length of its prefix: 203.0.113.0/24, or 203.0.113.10/32 for a "
            "single address; host names are not possible",
            ".cidr",
        ),
    )

    cidr: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Addresses outside of the cluster."""
    pod_selector: LabelSelector | None = None
    """Pods with these labels; of this namespace, unless namespaceSelector is set; `{}`: all."""
    namespace_selector: LabelSelector | None = None
    """Pods of the namespaces with these labels; `{}`: all namespaces."""
    ports: Annotated[list[NetworkPort], Field(min_length=1, max_length=32)] | None = None
    """On these ports; all."""


class Network(Model):
    """What the Task's pods may call. The API of Milepost and DNS stay open, for the sidecar; the Kubernetes API server
    and the metadata address stay shut.
    """

    model_config = rules(
        rule(
            "!has(self.egress) || self.egress != 'restricted' || has(self.allow)",
            "network: egress restricted needs allow, the list of what may be called; use none for nothing at all",
        ),
        rule(
            "!has(self.egress) || self.egress != 'none' || !has(self.allow)",
            "network: egress none excludes allow; use restricted for a list",
            ".allow",
        ),
    )

    egress: Literal["open", "restricted", "none"] | None = None
    """open: the world, without private networks (pods and Services of this cluster are such); restricted: only what
    allow lists; none: nothing; open."""
    allow: Annotated[list[Destination], Field(min_length=1, max_length=64)] | None = None
    """What may be called, beside the world where egress is open."""
