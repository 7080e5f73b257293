"""AWS Signature Version 4 in headers (its documentation's names). Pure: the time is an argument."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

ALGORITHM: Final = "AWS4-HMAC-SHA256"
EMPTY: Final = hashlib.sha256(b"").hexdigest()
"""Digest of a request without a body."""
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
"""In the place of a body's digest that is not known before it is sent."""


@dataclass(frozen=True, slots=True)
class Credentials:
    key_id: str
    secret: str


def signed_headers(  # noqa: PLR0917
    method: str,
    host: str,
    path: str,
    headers: Mapping[str, str],
    payload: str,
    credentials: Credentials,
    region: str,
    now: datetime,
) -> dict[str, str]:
    """The headers (with lower-case names) of a request without a query, and those that sign it. `path` is encoded;
    `payload`: the body's digest in hex, or UNSIGNED; `now`: UTC.
    """
    day, moment = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
    sent = {**headers, "host": host, "x-amz-content-sha256": payload, "x-amz-date": moment}
    names = ";".join(sorted(sent))
    lines = [method, path, "", *(f"{name}:{sent[name].strip()}" for name in sorted(sent)), "", names, payload]
    scope = f"{day}/{region}/s3/aws4_request"
    asked = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    key = f"AWS4{credentials.secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, f"{ALGORITHM}\n{moment}\n{scope}\n{asked}".encode(), "sha256").hex()
    proof = f"{ALGORITHM} Credential={credentials.key_id}/{scope},SignedHeaders={names},Signature={signature}"
    return {**sent, "authorization": proof}


def encoded(key: str) -> str:
    """A key as it stands in a path."""
    return quote(key, safe="/-._~")
