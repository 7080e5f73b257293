"""What all chance in a session of tests comes from: one number, the same each time, unless the session is to explore.

A change is judged by the same examples as the change before it. `MILEPOST_TEST_SEED` repeats a session's, and
`MILEPOST_EXPLORE=1` lets chance choose them.
"""

import os
import random
from typing import Final

EXPLORE: Final = os.environ.get("MILEPOST_EXPLORE") == "1"
SEED: Final = int(os.environ.get("MILEPOST_TEST_SEED", "0")) or (
    random.SystemRandom().randrange(1, 1 << 30) if EXPLORE else 1
)
