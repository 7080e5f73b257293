"""The node of a chaos run tells of each pod's end, however soon it is killed."""

import asyncio
import json
import sys
from pathlib import Path


async def test_pod_killed_before_it_began_is_told_as_ended(tmp_path: Path) -> None:
    node = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.pods", "1", str(tmp_path / "journal"),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        orders = [{"order": "start", "pod": "p"}, {"order": "kill", "pod": "p"}]
        assert node.stdin is not None
        assert node.stdout is not None
        node.stdin.write("".join(json.dumps(order) + "\n" for order in orders).encode())
        news = await asyncio.wait_for(node.stdout.readline(), 20)
    finally:
        node.kill()
        await node.wait()
    assert json.loads(news) == {"news": "ended", "pod": "p", "settled": False}
