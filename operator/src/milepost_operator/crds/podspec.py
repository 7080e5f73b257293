"""Settings of a Task's pods (`spec.pod`): what a Pod offers, less what would break isolation (no hostPath)."""

from typing import Annotated, Literal

from pydantic import Field

from milepost_operator.crds.common import Label, Model, Name, Quantity, keyed, rule, rules
from milepost_operator.crds.core import ConfigKey, FieldRef, Path, ResourceFieldRef
from milepost_operator.crds.scheduling import Affinity, Labels, Toleration

_RESERVED = "self.all(k, !k.startsWith('milepost.dev/') && k != 'app.kubernetes.io/managed-by')"
_ONE_SOURCE = (
    "[has(self.configMap), has(self.secret), has(self.emptyDir), has(self.persistentVolumeClaim), has(self.projected), "
    "has(self.downwardAPI), has(self.csi), has(self.nfs), has(self.image)].filter(x, x).size() == 1"
)
Mode = Annotated[int, Field(ge=0, le=0o777)]


class KeyToPath(Model):
    """One key as a file."""

    key: ConfigKey
    """Key of the Secret or ConfigMap."""
    path: Path
    """Relative path of the file."""
    mode: Mode | None = None
    """Permission bits."""


Items = Annotated[list[KeyToPath], Field(max_length=64)]


class ConfigMapVolume(Model):
    """Files of a ConfigMap."""

    name: Name
    """Name of the ConfigMap."""
    items: Items | None = None
    """Only these keys."""
    default_mode: Mode | None = None
    """Permission bits of the files."""
    optional: bool | None = None
    """The pod starts without it."""


class SecretVolume(Model):
    """Files of a Secret."""

    secret_name: Name
    """Name of the Secret."""
    items: Items | None = None
    """Only these keys."""
    default_mode: Mode | None = None
    """Permission bits of the files."""
    optional: bool | None = None
    """The pod starts without it."""


class EmptyDir(Model):
    """An empty directory that ends with the pod."""

    medium: Literal["", "Memory"] | None = None
    """`Memory`: a tmpfs."""
    size_limit: Quantity | None = None
    """The pod is evicted above it."""


class ClaimVolume(Model):
    """A PersistentVolumeClaim."""

    claim_name: Name
    """Name of the claim."""
    read_only: bool | None = None
    """Mount it read-only."""


class DownwardItem(Model):
    """A field of the pod as a file."""

    path: Path
    """Relative path of the file."""
    field_ref: FieldRef | None = None
    """A field of the pod."""
    resource_field_ref: ResourceFieldRef | None = None
    """A resource of a container."""
    mode: Mode | None = None
    """Permission bits."""


class DownwardVolume(Model):
    """Fields of the pod as files."""

    items: Annotated[list[DownwardItem], Field(max_length=32)] | None = None
    """The files."""
    default_mode: Mode | None = None
    """Permission bits of the files."""


class ProjectedRef(Model):
    """Files of a Secret or ConfigMap within a projected volume."""

    name: Name
    """Name of the object."""
    items: Items | None = None
    """Only these keys."""
    optional: bool | None = None
    """The pod starts without it."""


class Projection(Model):
    """One source of a projected volume."""

    config_map: ProjectedRef | None = None
    """A ConfigMap."""
    secret: ProjectedRef | None = None
    """A Secret."""
    downward_api: DownwardVolume | None = Field(None, alias="downwardAPI")
    """Fields of the pod."""


class ProjectedVolume(Model):
    """Several sources in one directory; service account tokens can't be among them."""

    sources: Annotated[list[Projection], Field(max_length=16)] | None = None
    """The sources."""
    default_mode: Mode | None = None
    """Permission bits of the files."""


class LocalRef(Model):
    """An object of this namespace."""

    name: Name
    """Its name."""


class CSIVolume(Model):
    """An ephemeral volume of a CSI driver."""

    driver: Name
    """The driver."""
    read_only: bool | None = None
    """Mount it read-only."""
    fs_type: Annotated[str, Field(max_length=32)] | None = None
    """File system."""
    volume_attributes: Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=32)] | None = None
    """For the driver."""
    node_publish_secret_ref: LocalRef | None = None
    """For the driver."""


class NFSVolume(Model):
    """A directory of an NFS server."""

    server: Annotated[str, Field(min_length=1, max_length=253)]
    """Its name or address."""
    path: Path
    """Exported path."""
    read_only: bool | None = None
    """Mount it read-only."""


class ImageVolume(Model):
    """The files of an OCI image, read-only."""

    reference: Annotated[str, Field(min_length=1, max_length=512)]
    """The image."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When to pull it."""


class Volume(Model):
    """A volume of the pod. There is no hostPath."""

    model_config = rules(
        rule(
            _ONE_SOURCE,
            "volumes: set exactly one of configMap, secret, emptyDir, persistentVolumeClaim, projected, downwardAPI, "
            "csi, nfs and image",
        ),
        rule("!self.name.startsWith('milepost-')", "volumes: names that begin with milepost- are reserved", ".name"),
    )

    name: Label
    """Name, for volumeMounts."""
    config_map: ConfigMapVolume | None = None
    """Files of a ConfigMap."""
    secret: SecretVolume | None = None
    """Files of a Secret."""
    empty_dir: EmptyDir | None = None
    """An empty directory that ends with the pod."""
    persistent_volume_claim: ClaimVolume | None = None
    """A PersistentVolumeClaim."""
    projected: ProjectedVolume | None = None
    """Several sources in one directory."""
    downward_api: DownwardVolume | None = Field(None, alias="downwardAPI")
    """Fields of the pod."""
    csi: CSIVolume | None = None
    """An ephemeral volume of a CSI driver."""
    nfs: NFSVolume | None = None
    """A directory of an NFS server."""
    image: ImageVolume | None = None
    """The files of an OCI image."""


class VolumeMount(Model):
    """Where the task container sees a volume."""

    model_config = rules(
        rule(
            "self.mountPath != '/run/milepost' && !self.mountPath.startsWith('/run/milepost/') && "
            "!self.mountPath.startsWith('/var/run/milepost') && "
            "!self.mountPath.startsWith('/var/run/secrets/milepost')",
            "volumeMounts: /run/milepost and /var/run/secrets/milepost are reserved",
            ".mountPath",
        ),
        # Other spellings of a reserved path; /var/run is /run in most images.
        rule(
            "!self.mountPath.contains('//') && !self.mountPath.matches('/[.][.]?(/|$)')",
            "volumeMounts: mountPath has no empty, '.' or '..' element",
            ".mountPath",
        ),
    )

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Name of a volume in spec.pod.volumes."""
    mount_path: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/[^:]*$")]
    """Absolute path in the container."""
    sub_path: Path | None = None
    """Only this path of the volume."""
    read_only: bool | None = None
    """Mount it read-only."""


_METADATA = {
    "x-kubernetes-validations": [
        rule(_RESERVED, "keys milepost.dev/… and app.kubernetes.io/managed-by are reserved"),
    ],
}
Annotations = Annotated[
    dict[str, Annotated[str, Field(max_length=4096)]],
    Field(max_length=32, json_schema_extra=_METADATA),
]


class PodSettings(Model):
    """How the pods of this Task differ from the default shape."""

    model_config = rules(
        rule(
            "!has(self.volumeMounts) || self.volumeMounts.all(m, has(self.volumes) && "
            "self.volumes.exists(v, v.name == m.name))",
            "pod.volumeMounts: every name must be one of pod.volumes",
            ".volumeMounts",
        ),
        rule(
            "!has(self.runAsUser) || self.runAsUser != 65530",
            "pod.runAsUser: 65530 is the sidecar's",
            ".runAsUser",
        ),
    )

    service_account_name: Name | None = None
    """ServiceAccount the pod runs as (cloud identities, image pulls); no token of it is mounted."""
    image_pull_secrets: Annotated[list[LocalRef], Field(max_length=16)] | None = None
    """Secrets for the image's registry."""
    node_selector: Labels | None = None
    """Labels a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] | None = None
    """Taints the pod accepts."""
    affinity: Affinity | None = None
    """Where the pod likes to run."""
    runtime_class_name: Name | None = None
    """Runtime class, such as a sandboxed one."""
    priority_class_name: Name | None = None
    """Priority class of the pod."""
    volumes: Annotated[list[Volume], Field(max_length=32, json_schema_extra=keyed("name"))] | None = None
    """Volumes of the pod."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=64, json_schema_extra=keyed("mountPath"))] | None = (
        None
    )
    """Where the task container sees them."""
    labels: Annotated[Labels, Field(json_schema_extra=_METADATA)] | None = None
    """More labels of the pod."""
    annotations: Annotations | None = None
    """More annotations of the pod."""
    run_as_user: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = None
    """User id of the task container, never 0; 65532 by default. 65530 is the sidecar's."""
    fs_group: Annotated[int, Field(ge=1, le=2_147_483_647)] | None = None
    """Group of the pod's volumes; 65531 by default."""
    read_only_root_filesystem: bool | None = None
    """False lets the task write outside its volumes and /tmp."""
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=3600)] | None = None
    """Seconds between the request to stop and the kill; 30 by default."""
