import sys
from pathlib import Path

import pytest

from e2e.cluster.shell import beside, wait_until


def test_what_runs_beside_is_waited_for(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with beside(["sh", "-c", f"sleep 0.2; touch {made}"]):
        pass
    assert made.exists()


def test_it_is_interrupted_when_what_it_runs_beside_fails(tmp_path: Path) -> None:
    begun, told = tmp_path / "begun", tmp_path / "told"
    code = (
        "import pathlib, signal; from e2e.cluster.shell import interruptible; interruptible()\n"
        f"try: pathlib.Path('{begun}').touch(); signal.pause()\n"
        f"except KeyboardInterrupt: pathlib.Path('{told}').touch()"
    )

    def bring_up() -> None:
        with beside([sys.executable, "-c", code]):
            wait_until("its start", begun.exists, 20, 0.01)
            raise RuntimeError("the cluster")

    with pytest.raises(RuntimeError, match="the cluster"):
        bring_up()
    assert told.exists()
