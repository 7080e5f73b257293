"""When the next attempt may begin."""

from milepost_operator.domain.runs import Retry


def backoff_seconds(retry: Retry, failures: int, jitter: float) -> float:
    """Delay after the `failures`-th failure in a row (from 1), in seconds; `jitter` is uniform in [0, 1).

    Exponential with "equal jitter" (half fixed, half random; M. Brooker, AWS Architecture Blog, 2015): spreads retries
    like full jitter does and still never comes back at once.
    """
    exponent = min(failures - 1, 64)
    delay = min(retry.max_seconds, retry.min_seconds * retry.factor**exponent)
    return delay * (0.5 + 0.5 * jitter) if retry.randomize else delay
