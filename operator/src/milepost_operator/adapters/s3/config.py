"""Where the bucket is, and who we are there."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from milepost_operator.adapters.s3.signing import Credentials
from milepost_operator.domain.errors import StorageError
from milepost_operator.settings import Settings

CA: Final = "ca.crt in objectStorage.existingSecret"


@dataclass(frozen=True, slots=True)
class BucketConfig:
    """`base`: the path before a key, encoded. The files of the keys are read anew when they change."""

    bucket: str
    scheme: str
    host: str
    base: str
    region: str
    key_id_file: Path
    secret_key_file: Path
    ca_file: Path | None


def bucket_config(settings: Settings) -> BucketConfig | None:
    """None: no bucket is configured. Raises StorageError when the endpoint is no address."""
    bucket, keys = settings.object_storage_bucket, settings.object_storage_key_id_file
    if not bucket or keys is None or settings.object_storage_secret_key_file is None:
        return None
    endpoint = settings.object_storage_endpoint or f"https://s3.{settings.object_storage_region}.amazonaws.com"
    url = urlsplit(endpoint)
    if url.scheme not in {"http", "https"} or not url.hostname or url.path.strip("/") or url.query:
        message = f"objectStorage.endpoint has to be http(s)://host[:port], not {endpoint!r}"
        raise StorageError(message)
    in_path = settings.object_storage_path_style
    return BucketConfig(
        bucket=bucket,
        scheme=url.scheme,
        host=url.netloc if in_path else f"{bucket}.{url.netloc}",
        base=f"/{bucket}/" if in_path else "/",
        region=settings.object_storage_region,
        key_id_file=keys,
        secret_key_file=settings.object_storage_secret_key_file,
        ca_file=settings.object_storage_ca_file,
    )


class KeyFiles:
    """The credentials, as their files say now."""

    def __init__(self, config: BucketConfig) -> None:
        self._files = (config.key_id_file, config.secret_key_file)
        self._stamp: tuple[int, ...] = ()
        self._read: Credentials | None = None

    def credentials(self) -> Credentials:
        """Raises StorageError when a file can't be read."""
        try:
            stamp = tuple(file.stat().st_mtime_ns for file in self._files)
            if self._read is None or stamp != self._stamp:
                key_id, secret = (file.read_text().strip() for file in self._files)
                self._read, self._stamp = Credentials(key_id, secret), stamp
        except (OSError, ValueError) as error:
            raise StorageError(f"the keys of objectStorage.existingSecret can't be read: {error}") from error
        return self._read


def tls_of(config: BucketConfig) -> ssl.SSLContext | None:
    """None: the endpoint is plain HTTP. Raises StorageError."""
    if config.scheme == "http":
        return None
    try:
        return ssl.create_default_context(cafile=config.ca_file if config.ca_file and config.ca_file.exists() else None)
    except OSError as error:  # also ssl.SSLError
        raise StorageError(f"{CA} can't be used: {error}") from error
