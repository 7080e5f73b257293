"""How many new pods the attempts of one warm key get: as in any queue, who is served in a moment needs no new counter.

An attempt costs a new pod only where those that are there don't take it within the time that a new one needs: at worst
it begins after twice that time, and mostly at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PREFERENCE_SECONDS: Final = 1.0
"""An attempt waits so long for a warm pod that is there before a new pod is made."""
LEAST_COLD_SECONDS: Final = 1.0
MOST_COLD_SECONDS: Final = 3.0
"""Between these is what a new pod is taken to need, however long the last ones did."""
CYCLE_SECONDS: Final = 0.05
"""A pod takes no more than one attempt in this, however short they are."""
SAMPLE: Final = 32
"""Pods that are looked at for each key: those whose last attempts were the shortest."""


@dataclass(frozen=True, slots=True)
class Line:
    """Attempts of one warm key that wait for a pod, and what there is for them. All times in seconds.

    `waits`: of those that no launcher has taken, the longest first. `warm`: pods that wait for work, or will in a
    moment. `coming`: pods that are launched for an attempt and not there yet. `serving`: of pods that are there, at
    work or not, how long their last attempt took, or the one at hand if that is longer by now. `cold`: what those
    needed to be there.
    """

    waits: Sequence[float]
    warm: int = 0
    coming: int = 0
    serving: Sequence[float] = ()
    cold: Sequence[float] = ()


def cold_seconds(line: Line) -> float:
    """What a new pod needs until it begins, as far as the last ones tell."""
    mean = sum(line.cold) / len(line.cold) if line.cold else 0.0
    return min(max(mean, LEAST_COLD_SECONDS), MOST_COLD_SECONDS)


def to_launch(line: Line) -> list[int]:
    """Which of `line.waits` get a new pod now, by their place.

    The oldest are left to the pods that wait, and as many as those that are there will take before a new one could.
    Where there are such pods, no more new ones are under way than they are: if they were wrongly counted on, each turn
    doubles them.
    """
    left = [place for place, wait in enumerate(line.waits) if place >= line.warm or wait >= PREFERENCE_SECONDS]
    cold = cold_seconds(line)
    quick = [max(seconds, CYCLE_SECONDS) for seconds in line.serving if seconds < cold]
    if not quick:
        return left
    served = int(sum(cold / seconds for seconds in quick))
    chosen = [place for place in left if place >= served or line.waits[place] >= cold]
    return chosen[: max(0, len(quick) - line.coming)]
