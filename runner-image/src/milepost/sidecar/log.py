"""One JSON line per event on stderr."""

import sys
import time

from milepost.net.messages import compact
from milepost.wire.values import JSON


def log(event: str, **fields: JSON) -> None:
    """Write one event. `ts` is seconds since the epoch."""
    line = compact({"ts": round(time.time(), 3), "event": event, **fields})
    sys.stderr.buffer.write(line + b"\n")
    sys.stderr.buffer.flush()
