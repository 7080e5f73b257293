"""Settings of every process, from the environment (prefix `MILEPOST_`); built once in `__main__` and passed down."""

from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.alias_generators import to_camel
from pydantic_settings import BaseSettings, SettingsConfigDict


class TaskNetworkSettings(BaseModel):
    """NetworkPolicies for the pods of tasks. Rules are egress rules of a NetworkPolicy; addresses are CIDRs."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    api_labels: dict[str, str]
    """Labels of the api's pods, which are in the operator's namespace."""
    closed: list[str] = []
    """What no Task may open."""
    private: list[str] = []
    """What is not part of the world to which Tasks are open."""
    dns: list[dict[str, object]] = []
    """Rules that let every pod find names; empty: port 53, of any address."""
    open_to: list[dict[str, object]] = []
    """Rules for the Tasks that are open to the world."""
    api_server: list[str] = []
    """Addresses of the Kubernetes API server; empty: as the Service and EndpointSlice `kubernetes` say."""

    @field_validator("closed", "private", "api_server")
    @classmethod
    def _networks(cls, given: list[str]) -> list[str]:
        """ValueError names the one that is no network."""
        return [str(ip_network(one)) for one in given]


class Settings(BaseSettings):
    """Seconds and bytes throughout."""

    model_config = SettingsConfigDict(env_prefix="MILEPOST_", extra="ignore")

    database_url: str = ""
    """postgresql:// address; or the file that holds it, in `database_url_file`."""
    database_url_file: Path | None = None
    database_ca_file: Path | None = None
    """CA for TLS to Postgres; None: as the address says (sslmode)."""
    database_pool: int = Field(default=10, ge=3, le=200)
    """Connections a process may hold. One listens and one is kept for records."""

    cluster: str = "default"
    """Rows of several clusters can share one database: this is ours."""
    namespaces: str = ""
    """Comma-separated namespaces to serve; empty: all."""
    operator_namespace: str = "default"
    pod_name: str = "operator"
    lease_name: str = "milepost-operator"

    runner_image: str = ""
    """Image of tasks with inline source, and of the sidecar unless `sidecar_image` is set."""
    sidecar_image: str = ""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    task_requests: dict[str, str] = {"cpu": "50m", "memory": "128Mi"}
    task_limits: dict[str, str] = {"cpu": "1", "memory": "512Mi"}
    """Resources of a task container where its Task says nothing (JSON objects)."""
    task_network: TaskNetworkSettings | None = None
    """A JSON object; None: no NetworkPolicies are made for tasks, and those that are there go."""
    api_url: str = ""
    """Where sidecars reach the api."""
    ca_file: Path | None = None
    """CA that signed the api's certificate; handed to sidecars."""

    listen_port: int = 8443
    metrics_port: int = 9090
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    session_key_file: Path | None = None
    """At least 32 random bytes, the same for all replicas: signs sessions of pods."""
    api_token_file: Path | None = None
    """Lines `name:namespace:token` (namespace `*`: any) for the public API."""

    lease_seconds: float = Field(default=10.0, gt=0)
    """An attempt whose heartbeats stop for so long is lost (while heartbeats were acceptable)."""
    beat_seconds: float = Field(default=3.0, gt=0)
    grace_seconds: int = Field(default=30, ge=0)
    """Between a cancel and the kill."""
    config_grace_seconds: float = Field(default=60.0, ge=0)
    """A pod that can't start for a reason that a person must fix (image, config, refused) fails its run after this."""
    infra_budget: int = Field(default=5, ge=0)
    """Infrastructure losses in a row without a new record before the run is given up as poison."""
    default_queue_concurrency: int = Field(default=10, ge=1)
    """Limit of the queue `default` where no Queue of that name is applied."""
    global_concurrency: int = Field(default=0, ge=0)
    """Runs at work at once in the whole cluster; 0: no limit."""
    progress_seconds: float = Field(default=15.0, gt=0)
    """Progress alone is written to a Run's status at most so often."""
    held_seconds: int = Field(default=86400, ge=1)
    """A run that is held for a missing Task or Queue expires after this."""
    idempotency_seconds: int = Field(default=86400, ge=1)

    warm_seconds: int = Field(default=60, ge=0)
    """A pod that has nothing to do waits so long for another run of its Task, where that says nothing; 0: it ends."""
    warm_max: int = Field(default=5, ge=0)
    """Pods of one Task that wait, at most, where it says nothing."""
    warm_total: int = Field(default=50, ge=0)
    """Pods that wait in all, at most; 0: no pod waits, whatever its Task says."""
    warm_min: int = Field(default=0, ge=0)
    """Pods of each Task that are there, at work or not, at least, where it says nothing."""
    warm_predict: bool = False
    """Pods are made before runs come that are foretold, where a Task says nothing of it."""
    prepull: bool = True
    """The image of a new version is pulled before its runs come."""
    prepull_max_nodes: int = Field(default=2, ge=1, le=100)
    """On so many nodes, at most."""

    pattern_window_seconds: float = Field(default=3600.0, gt=0)
    """Patterns of failure are looked for in attempts that ended within this."""
    pattern_timeouts: int = Field(default=3, ge=0)
    """Attempts that ran out of time, where they are half of all, make a TimeoutLoop; 0: never, as below."""
    pattern_retries: int = Field(default=20, ge=0)
    """Retries, where half of the attempts fail, make a RetryStorm."""
    pattern_gap_seconds: float = Field(default=300.0, ge=0)
    """An attempt that is lost so long after its last record makes a CheckpointGap."""
    pattern_growth: float = Field(default=1.5, ge=0)
    """The last runs of a warm pod that take so many times the memory of its first make MemoryGrowth."""
    pattern_pulls: int = Field(default=3, ge=0)
    """Pods whose image can't be pulled at first make ImagePullFlapping."""

    retention_successful_runs: int = Field(default=10, ge=0, le=1000)
    """Run objects kept for each task's newest successes, where its Task says nothing; those made with kubectl stay."""
    retention_failed_runs: int = Field(default=20, ge=0, le=1000)
    """The same for runs that ended otherwise."""
    retention_success_seconds: int = Field(default=2_592_000, ge=60)
    """Rows of succeeded runs are kept so long after their end."""
    retention_failure_seconds: int = Field(default=7_776_000, ge=60)
    retention_records_success_seconds: int = Field(default=604_800, ge=60)
    """Their records, which a retry resumes from."""
    retention_records_failure_seconds: int = Field(default=2_592_000, ge=60)

    max_run_records: int = Field(default=20_000, ge=1)
    """Records of one run, where its Task says nothing; and the bytes that are kept of them."""
    max_run_records_bytes: int = Field(default=268_435_456, ge=1024)
    max_record_bytes: int = Field(default=1_048_576, ge=1024)
    max_result_bytes: int = Field(default=1_048_576, ge=1024)
    max_stream_bytes: int = Field(default=16_777_216, ge=1024)
    """All that a run may tell by ctx.stream(), its attempts together."""
    max_object_bytes: int = Field(default=67_108_864, ge=1024)
    """Of a record or result that goes to object storage since it is above its limit."""
    object_storage_bucket: str = ""
    """Bucket of S3's interface for such values; empty: there is none, and they are refused."""
    object_storage_endpoint: str = ""
    """http(s)://host[:port]; empty: that of AWS in the region."""
    object_storage_region: str = "us-east-1"
    object_storage_path_style: bool = True
    """Address the bucket in the path, and not as a part of the host's name."""
    object_storage_prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._/-]*$")
    """Before all our keys: the bucket may be shared."""
    object_storage_key_id_file: Path | None = None
    object_storage_secret_key_file: Path | None = None
    object_storage_ca_file: Path | None = None
    """CA that signed the endpoint's certificate. None, or a file that is not there: those that the system trusts."""
    max_input_bytes: int = Field(default=1_048_576, ge=1024)
    max_kubectl_input_bytes: int = Field(default=65_536, ge=1024)

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _beat_within_lease(self) -> "Settings":
        if self.beat_seconds * 2 > self.lease_seconds:
            raise ValueError("MILEPOST_BEAT_SECONDS must be at most half of MILEPOST_LEASE_SECONDS")
        return self

    @model_validator(mode="after")
    def _bucket_with_keys(self) -> "Settings":
        if self.object_storage_bucket and not (self.object_storage_key_id_file and self.object_storage_secret_key_file):
            raise ValueError(
                "MILEPOST_OBJECT_STORAGE_BUCKET needs MILEPOST_OBJECT_STORAGE_KEY_ID_FILE and"
                " MILEPOST_OBJECT_STORAGE_SECRET_KEY_FILE"
            )
        return self

    @property
    def most_object_bytes(self) -> int:
        """Bytes of the largest value that goes to object storage; 0: there is none."""
        return self.max_object_bytes if self.object_storage_bucket else 0

    @property
    def dsn(self) -> str:
        """The database's address. ValueError when neither setting gives one."""
        text = self.database_url or (self.database_url_file.read_text().strip() if self.database_url_file else "")
        if not text:
            raise ValueError("set MILEPOST_DATABASE_URL, or MILEPOST_DATABASE_URL_FILE to a file that holds it")
        return text

    @property
    def watched_namespaces(self) -> tuple[str, ...]:
        return tuple(n.strip() for n in self.namespaces.split(",") if n.strip())
