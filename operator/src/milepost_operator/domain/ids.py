"""Names that we give. Randomness and the clock come in as arguments."""

import base64
from typing import Final
from uuid import UUID

NAME_SUFFIX_BYTES: Final = 5
MAX_NAME: Final = 63


def uuid7(milliseconds: int, random: bytes) -> UUID:
    """RFC 9562 version 7: ordered by time. `random`: 10 bytes."""
    value = (milliseconds << 80) | int.from_bytes(random, "big")
    value = value & ~(0xF << 76) | (0x7 << 76)
    return UUID(int=value & ~(0x3 << 62) | (0x2 << 62))


def lower32(random: bytes) -> str:
    """Lower-case base32 without padding: safe in every Kubernetes name."""
    return base64.b32encode(random).decode().lower().rstrip("=")


def run_name(task: str, random: bytes) -> str:
    """`<task>-<suffix>`, a DNS label; the task's part is cut where it must be."""
    suffix = lower32(random)
    return f"{task[: MAX_NAME - len(suffix) - 1].rstrip('-.')}-{suffix}"
