"""Identity of a run's input."""

import hashlib
import json
from typing import Final

_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def input_hash(text: str) -> bytes:
    """SHA-256 of the canonical form of JSON text: equal for equal values whatever their spacing and key order."""
    return value_hash(json.loads(text))


def value_hash(value: object) -> bytes:
    """The same of a value that was decoded already."""
    return hashlib.sha256(_CANONICAL.encode(value).encode()).digest()
