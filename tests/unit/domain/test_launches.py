"""How many new pods are made, and for whom."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from milepost_operator.domain.launches import Line, cold_seconds, to_launch


@pytest.mark.parametrize(
    ("line", "places"),
    [
        (Line([0.0] * 4), [0, 1, 2, 3]),
        (Line([0.5, 0.4, 0.0], warm=2), [2]),
        (Line([1.0, 0.4, 0.0], warm=2), [0, 2]),
        # ten pods that take 50 ms each: two hundred are served before a new pod is there
        (Line([0.5] * 200, serving=[0.01] * 10), []),
        (Line([0.5] * 203, serving=[0.01] * 10), [200, 201, 202]),
        # those at work for longer than a new pod needs are not counted on
        (Line([0.5] * 3, serving=[1.0, 60.0]), [0, 1, 2]),
        (Line([0.5] * 3, serving=[0.6, 60.0]), [1]),
        # nobody waits longer than a new pod would have taken
        (Line([1.5, 1.1, 0.9], serving=[0.05] * 4), [0, 1]),
        (Line([1.5, 1.1, 0.9], serving=[0.05] * 4, cold=[1.2, 1.4]), [0]),
        # no more are under way than serve already
        (Line([0.5] * 500, serving=[0.05] * 4), [80, 81, 82, 83]),
        (Line([2.0] * 500, serving=[0.05] * 4), [0, 1, 2, 3]),
        (Line([2.0] * 500, serving=[0.05] * 4, coming=3), [0]),
        (Line([2.0] * 500, serving=[0.05] * 4, coming=9), []),
        (Line([2.0] * 5, coming=9), [0, 1, 2, 3, 4]),
        (Line([]), []),
    ],
)
def test_new_pods_are_for_those_whom_no_other_will_take_in_time(line: Line, places: list[int]) -> None:
    assert to_launch(line) == places


def test_what_a_new_pod_needs_is_what_the_last_ones_did_within_bounds() -> None:
    assert cold_seconds(Line([])) == 1.0
    assert cold_seconds(Line([], cold=[1.0, 2.0])) == 1.5
    assert cold_seconds(Line([], cold=[0.1])) == 1.0
    assert cold_seconds(Line([], cold=[60.0])) == 3.0


@dataclass
class Simulated:
    """Pods that take attempts in order, and a launcher that turns ten times a second. `frozen`: when no pod takes any
    (from, to); `cold`: seconds until a new pod is there.
    """

    pods: int
    service: float
    cold: float
    frozen: tuple[float, float] = (0.0, 0.0)
    launched: int = 0
    served: int = 0
    longest: float = 0.0

    def run(self, arrivals: Sequence[float], until: float) -> None:
        waiting: list[float] = []  # since when; the first are those of the pods that come
        coming: list[float] = []  # when each is there
        busy: list[float] = []  # until when
        free, at, todo = self.pods, 0.0, list(arrivals)
        for turn in range(int(until * 100)):
            at = turn / 100
            free += sum(end <= at for end in busy) + sum(there <= at for there in coming)
            busy, coming = [end for end in busy if end > at], [there for there in coming if there > at]
            while todo and todo[0] <= at:
                waiting.append(todo.pop(0))
            while free and waiting and not self.frozen[0] <= at < self.frozen[1]:
                self.longest = max(self.longest, at - waiting.pop(0))
                busy.append(at + self.service)
                free, self.served = free - 1, self.served + 1
            if turn % 10 == 0:
                line = Line(
                    [at - since for since in waiting[len(coming) :]],
                    free,
                    len(coming),
                    [self.service] * (free + len(busy)),
                )
                more = len(to_launch(line))
                coming += [at + self.cold] * more
                self.launched += more


def arrivals(rate: float, seconds: float) -> list[float]:
    chance, at, found = random.Random(1), 0.0, []
    while (at := at + chance.expovariate(rate)) < seconds:
        found.append(at)
    return found


def test_twenty_runs_a_second_into_ten_pods_need_no_other() -> None:
    world, runs = Simulated(10, service=0.3, cold=1.0), arrivals(20.0, 60.0)
    world.run(runs, 70.0)
    assert (world.served, world.launched) == (len(runs), 0)
    assert world.longest < 1.0


def test_a_standstill_does_not_end_in_a_jam_of_new_pods() -> None:
    world, runs = Simulated(10, service=0.3, cold=5.0, frozen=(20.0, 23.0)), arrivals(20.0, 60.0)
    world.run(runs, 70.0)
    assert world.served == len(runs)
    assert world.launched <= 10, "no more than there were"
    assert world.longest < 5.0


def test_a_load_beyond_the_pods_gets_as_many_as_it_needs() -> None:
    world, runs = Simulated(2, service=0.5, cold=1.0), arrivals(20.0, 60.0)
    world.run(runs, 70.0)
    assert world.served == len(runs)
    assert 10 <= world.launched + 2 <= 30
