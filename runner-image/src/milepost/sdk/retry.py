"""How often and how soon a step is tried again. Pure: time and chance are given."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from milepost.errors import ChangedCodeError, FatalError
from milepost.sdk.classify import MAX_AFTER_SECONDS, Verdict, classify
from milepost.sdk.failed import OURS, kept_text
from milepost.sdk.journal import logger
from milepost.sdk.retried import tries_key
from milepost.sdk.task import When
from milepost.wire.values import JSON
from milepost.wire.wait import Wait

MAX_ERROR: Final = 400
MAX_TOLD: Final = 256
MAX_TRIES: Final = 1000
SPREAD: Final = 0.1
"""What chance adds to a time that a server asked for, so that not all come at the same moment."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Try a step again when it raises; the words are those of a Task's `spec.retry`.

    The delay after the n-th failure is `min_seconds * factor ** (n - 1)`, at most `max_seconds`; `randomize` takes a
    random part of its second half. A server's `Retry-After` makes it longer, up to a day. `when(error)` decides: True
    or False, seconds or a timedelta (again after exactly that time), None for Milepost's own verdict. A wait of more
    than `hold_seconds` ends the attempt: the pod is released, and none of the Task's attempts is spent.
    """

    max_attempts: int = 3
    factor: float = 2.0
    min_seconds: float = 1.0
    max_seconds: float = 60.0
    randomize: bool = True
    when: When | None = None
    hold_seconds: float = 5.0

    def __post_init__(self) -> None:
        most: object = self.max_attempts
        if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= MAX_TRIES:
            raise ValueError(f"Retry: max_attempts is a whole number from 1 to {MAX_TRIES}, not {most!r}")
        for name, low in (("factor", 1.0), ("min_seconds", 0.0), ("max_seconds", 0.0), ("hold_seconds", 0.0)):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not low <= value <= MAX_AFTER_SECONDS:
                raise ValueError(f"Retry: {name} is a number from {low:g} to {MAX_AFTER_SECONDS:g}, not {value!r}")
        if self.min_seconds > self.max_seconds:
            raise ValueError(f"Retry: min_seconds {self.min_seconds:g} is above max_seconds {self.max_seconds:g}")

    def backoff(self, failures: int, chance: float) -> float:
        """Give the delay after so many failures; `chance` is uniform in [0, 1)."""
        delay = min(self.max_seconds, self.min_seconds * self.factor ** min(failures - 1, 64))
        return delay * (0.5 + 0.5 * chance) if self.randomize else delay


def checked(retry: object) -> Retry:
    """Check what was given as `retry=`. Raises TypeError."""
    if not isinstance(retry, Retry):
        raise TypeError(f"retry= of a step is a milepost.Retry, such as Retry(max_attempts=5), not {retry!r}")
    return retry


@dataclass(frozen=True, slots=True)
class Judgement:
    """`exact`: `after_seconds` is the word of the task's own function."""

    verdict: Verdict
    exact: bool = False


def judge(error: BaseException, when: When | None) -> Judgement:
    """Ask the task's own function, then `classify`. Other code is not the function's to decide."""
    if isinstance(error, ChangedCodeError):
        return Judgement(Verdict(retryable=False))
    said = when(error) if when is not None and isinstance(error, Exception) and not isinstance(error, OURS) else None
    if said is None:
        return Judgement(classify(error))
    if isinstance(said, bool):
        known = classify(error)
        return Judgement(Verdict(said, known.after_seconds if said else None))
    seconds: object = said.total_seconds() if isinstance(said, timedelta) else said
    if not isinstance(seconds, (int, float)) or not math.isfinite(seconds) or seconds < 0:
        raise TypeError(f"a retry function gives a bool, seconds, a timedelta or None, not {said!r}") from error
    return Judgement(Verdict(retryable=True, after_seconds=min(float(seconds), MAX_AFTER_SECONDS)), exact=True)


def verdict_of(error: BaseException, when: When | None) -> Verdict:
    """Judge the end of a task: FatalError is that of the run. Where its own function raises, that is told, and
    `classify` decides.
    """
    if isinstance(error, FatalError):
        return Verdict(retryable=False)
    try:
        return judge(error, when).verdict
    except Exception:  # noqa: BLE001  # the task's failure is told all the same
        logger.exception("retry_when raised itself: Milepost's own verdict counts")
        return classify(error)


class Tries:
    """The tries of one step in its run. `recorded`: what the newest checkpoint of them says, None without one."""

    def __init__(self, step_key: str, policy: Retry, recorded: Mapping[str, JSON] | None = None) -> None:
        self.key = tries_key(step_key)
        self.policy = policy
        self.failed = 0
        self._step = step_key
        self._error = ""
        self._until = 0.0
        self._seconds = 0.0
        self.to_record = False
        """Whether the last failure changes what a later attempt has to know."""
        if recorded is not None and recorded.get("until") is not None:  # without one it was given up: begins afresh
            self._read(recorded)

    def _read(self, recorded: Mapping[str, JSON]) -> None:
        failed, seconds, until = recorded.get("failed"), recorded.get("seconds"), recorded.get("until")
        self.failed = failed if isinstance(failed, int) else 0
        self._seconds = float(seconds) if isinstance(seconds, (int, float)) else 0.0
        self._until = datetime.fromisoformat(str(until)).timestamp()
        self._error = str(recorded.get("error", ""))

    def owed(self, now: float) -> float:
        """Give the seconds still to wait before the next try. Another machine's clock can't make them more."""
        return min(max(self._until - now, 0.0), self._seconds)

    def after(self, error: Exception, now: float, chance: float) -> float | None:
        """Note a failure: give the seconds to wait, or None to give up. `now`: seconds since 1970."""
        self.failed += 1
        self._error = f"{type(error).__name__}: {kept_text(str(error))[:MAX_ERROR]}"
        judged = judge(error, self.policy.when)
        gives_up = isinstance(error, OURS) or judged.verdict.retryable is False
        gives_up = gives_up or self.failed >= self.policy.max_attempts
        self.to_record = not isinstance(error, OURS) and not (gives_up and self.failed == 1)
        if gives_up:
            self._until = self._seconds = 0.0
            if self.failed > 1:
                error.add_note(f"step {self._step!r}: this was try {self.failed} of {self.policy.max_attempts}")
            return None
        self._seconds = self._delay(judged, chance)
        self._until = now + self._seconds
        return self._seconds

    def _delay(self, judged: Judgement, chance: float) -> float:
        asked = judged.verdict.after_seconds
        if asked is not None and judged.exact:
            return asked
        delay = self.policy.backoff(self.failed, chance)
        if asked is None:
            return delay
        return max(delay, asked * (1 + SPREAD * chance) if self.policy.randomize else asked)

    def record(self) -> dict[str, JSON]:
        """Give the value of the checkpoint: how often it failed, of how many tries, how, and when the next one is."""
        until = datetime.fromtimestamp(self._until, UTC).isoformat() if self._until else None
        return {
            "step": self._step,
            "failed": self.failed,
            "of": self.policy.max_attempts,
            "error": self._error,
            "seconds": round(self._seconds, 3),
            "until": until,
        }

    def wait(self, now: float) -> Wait:
        """Give the wait for the next try, as the control plane is told of it."""
        told = f"step `{self._step}` failed in {self.failed} of {self.policy.max_attempts} tries: {self._error}"
        short = told if len(told) <= MAX_TOLD else f"{told[: MAX_TOLD - 1]}…"
        return Wait(key=self.key, kind="retry", name=short, seconds=self.owed(now))
