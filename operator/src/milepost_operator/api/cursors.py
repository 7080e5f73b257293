"""Cursors of lists: signed, so that only what we gave comes back, and of one list with one filter alone."""

import base64
import binascii
import hashlib
import hmac
import struct
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from pydantic import BaseModel

from milepost_operator.domain.errors import InvalidInputError
from milepost_operator.domain.lifecycle import Position

_BODY: Final = struct.Struct(">q16s")
_MAC_BYTES: Final = 12
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Cursors:
    """`key`: bytes that all replicas share."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, position: Position | None, scope: str) -> str | None:
        """The text of a position; `scope` (of `scope_of`) is the list that it belongs to."""
        if position is None:
            return None
        body = _BODY.pack((position.at - _EPOCH) // _MICROSECOND, position.run_id.bytes)
        return base64.urlsafe_b64encode(body + self._mac(body, scope)).decode()

    def read(self, cursor: str | None, scope: str) -> Position | None:
        """The position; None without a cursor. InvalidInputError for what we did not give for this list."""
        if cursor is None:
            return None
        try:
            raw = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise _foreign() from error
        body, mac = raw[: _BODY.size], raw[_BODY.size :]
        if not hmac.compare_digest(mac, self._mac(body, scope)):
            raise _foreign()
        at, run_id = _BODY.unpack(body)
        return Position(_EPOCH + at * _MICROSECOND, UUID(bytes=run_id))

    def _mac(self, body: bytes, scope: str) -> bytes:
        return hmac.digest(self._key, b"milepost-cursor:" + scope.encode() + b"\x00" + body, hashlib.sha256)[
            :_MAC_BYTES
        ]


def scope_of(name: str, namespace: str | None, asked: BaseModel) -> str:
    """Which list this is: its name, its namespace and everything that was asked for but where and how much."""
    return f"{name} {namespace} {asked.model_dump_json(exclude={'cursor', 'limit', 'namespace', 'dry_run'})}"


def _foreign() -> InvalidInputError:
    return InvalidInputError(
        "invalid-cursor", "pass a nextCursor as it was given, with the same filters; or begin without one", "cursor"
    )
