"""Settings of the sidecar, from its environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from milepost.wire.local import SOCKET

REUSABLE_ENV: Final = "MILEPOST_REUSABLE"


class SettingsError(Exception):
    """The environment does not say what the sidecar needs; the message names the variable."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`ca`: PEM text, None trusts the system's. `token_file` is read anew for every session.

    `reusable`: the task container can take another attempt after its first.
    """

    host: str
    port: int
    tls: bool
    ca: str | None
    pod_id: str
    socket: str
    token_file: str
    reusable: bool = False

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "Settings":
        """Read them. Raises SettingsError."""
        url = urlsplit(_required(env, "MILEPOST_API_URL"))
        if url.scheme not in {"https", "http"} or not url.hostname:
            raise SettingsError(f"MILEPOST_API_URL must be https://HOST[:PORT], not {url.geturl()!r}")
        tls = url.scheme == "https"
        try:
            port = url.port or (443 if tls else 80)
        except ValueError as error:
            raise SettingsError(f"MILEPOST_API_URL has no valid port: {error}") from error
        return cls(
            host=url.hostname,
            port=port,
            tls=tls,
            ca=env.get("MILEPOST_CA") or None,
            pod_id=_required(env, "MILEPOST_POD_ID"),
            socket=env.get("MILEPOST_SOCKET") or SOCKET,
            token_file=env.get("MILEPOST_TOKEN_FILE") or "/var/run/secrets/milepost/token",
            reusable=env.get(REUSABLE_ENV) == "true",
        )


def _required(env: Mapping[str, str], name: str) -> str:
    if value := env.get(name):
        return value
    raise SettingsError(f"{name} is not set")
