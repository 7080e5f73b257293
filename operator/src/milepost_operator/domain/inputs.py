"""Identity of a run's input."""

import hashlib
import json


def input_hash(text: str) -> bytes:
    """SHA-256 of the canonical form of JSON text: equal for equal values whatever their spacing and key order."""
    canonical = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).digest()
