"""Both versions of cgroups, from files as the kernel writes them."""

from pathlib import Path

import pytest

from milepost.runner import cgroup
from milepost.runner.cgroup import Counters, own_usage, read, since, usage
from milepost.sidecar import checks
from milepost.wire.local import USAGE
from milepost.wire.pod import Evidence

V2 = {
    "memory.events": "low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n",
    "memory.peak": "536870912\n",
    "cpu.stat": "usage_usec 99\nnr_periods 40\nnr_throttled 7\nthrottled_usec 1500000\n",
}
V1 = {
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    "memory/memory.max_usage_in_bytes": "1048576\n",
    "cpu/cpu.stat": "nr_periods 40\nnr_throttled 5\nthrottled_time 2000000000\n",
}
V1_JOINED = {"cpu,cpuacct/cpu.stat": "nr_throttled 1\nthrottled_time 3000000\n"}


@pytest.mark.parametrize(
    ("files", "counters"),
    [
        (V2, Counters(1, 536870912, 7, 1500)),
        (V1, Counters(3, 1048576, 5, 2000)),
        (V1_JOINED, Counters(0, 0, 1, 3)),
        ({"memory.events": "oom_kill 1\n"}, Counters(1)),  # an old kernel keeps no peak
        ({}, Counters()),
    ],
)
def test_what_the_kernel_keeps_is_read(tmp_path: Path, files: dict[str, str], counters: Counters):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert read(tmp_path) == counters


def test_an_attempt_has_what_came_to_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cgroup, "read", lambda: Counters(2, 500, 9, 90))
    assert since(Counters(1, 400, 4, 50), 123) == Evidence(
        oom_kills=1, peak_bytes=500, throttled_periods=5, throttled_ms=40, resident_bytes=123
    )
    assert since(Counters(2, 500, 9, 90), 123) == Evidence(resident_bytes=123), "the peak is an earlier attempt's"


def test_the_sidecar_reads_what_the_runner_tells():
    told = Evidence(oom_kills=1, peak_bytes=2, throttled_periods=3, throttled_ms=4, resident_bytes=5)
    ((name, value),) = usage(told)
    assert (name, checks.usage(value)) == (USAGE, told)
    ((_, mine),) = own_usage(Counters())
    assert checks.usage(mine).resident_bytes > 1_000_000


def test_counters_travel_as_an_argument():
    counters = Counters(1, 2, 3, 4)
    assert Counters.of(str(counters)) == counters
