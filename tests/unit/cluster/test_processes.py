import fcntl
import os
import signal
from pathlib import Path

import pytest

from e2e.cluster.processes import Daemon, _group_lives, pids_mentioning, started_at
from e2e.cluster.shell import wait_until


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon("napper", tmp_path / "run", tmp_path / "log")


def test_a_daemon_is_started_once_and_anew_when_its_recipe_changes(daemon: Daemon, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("1")
    assert daemon.ensure(["sleep", "60"], config=[config])
    first = daemon.pid()
    assert not daemon.ensure(["sleep", "60"], config=[config])
    config.write_text("2")
    assert daemon.ensure(["sleep", "60"], config=[config])
    assert daemon.pid() not in (None, first)
    daemon.stop()
    assert daemon.pid() is None
    assert not daemon.pidfile.exists()


def test_a_daemon_holds_no_lock_of_who_started_it(daemon: Daemon, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with lock.open("w") as held, lock.open("w") as other:
        os.set_inheritable(held.fileno(), True)
        fcntl.flock(held, fcntl.LOCK_EX)
        daemon.ensure(["sleep", "60"])
        held.close()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    daemon.stop()


def test_stopping_ends_the_whole_group_even_when_it_refuses(daemon: Daemon) -> None:
    daemon.ensure(["sh", "-c", "trap '' TERM; sleep 61 & while :; do wait; done"])
    group = daemon.pid()
    daemon.stop(patience=0.3)
    assert group is not None
    assert not _group_lives(group)


def test_what_a_killed_leader_left_is_ended_before_the_next_start(daemon: Daemon) -> None:
    daemon.ensure(["sh", "-c", "sleep 62.5 & echo $! ; wait"])
    log = daemon.log / "napper.log"
    wait_until("the child", lambda: bool(log.read_text().strip()), 5, 0.01)
    child, leader = int(log.read_text()), daemon.pid()
    assert leader is not None
    os.kill(leader, signal.SIGKILL)
    wait_until("the end of the leader", lambda: daemon.pid() is None, 5, 0.01)
    daemon.ensure(["sleep", "60"])
    wait_until("the end of the orphan", lambda: started_at(child) is None, 5, 0.01)
    daemon.stop()


def test_a_recycled_pid_is_not_taken_for_the_daemon(daemon: Daemon) -> None:
    daemon.run.mkdir()
    daemon.pidfile.write_text(f'{{"pid": {os.getpid()}, "started": 1, "recipe": "x"}}')
    assert daemon.pid() is None
    daemon.stop()


def test_last_words_are_the_end_of_the_log(daemon: Daemon) -> None:
    assert daemon.last_words() == "(no log)"
    daemon.ensure(["sh", "-c", "echo one; echo two; exit 3"])
    wait_until("its end", lambda: daemon.pid() is None, 5, 0.01)
    assert daemon.last_words(1) == "two"


def test_we_ourselves_are_never_among_the_processes_to_kill() -> None:
    assert os.getpid() not in pids_mentioning("pytest")
