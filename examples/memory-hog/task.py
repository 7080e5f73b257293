"""Go over the memory limit on purpose, after some progress is on record: what an OOM kill looks like from outside."""

import ast
import asyncio
import sysconfig
from pathlib import Path

from milepost import Context, task


def survey() -> list[str]:
    """List the source files of the standard library, biggest first."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(root.glob("*.py"), key=lambda path: path.stat().st_size, reverse=True)
    return [str(path) for path in files]


def parse(file: str) -> ast.AST:
    """Read and parse one file."""
    return ast.parse(Path(file).read_bytes())


@task(id="memory-hog")
async def main(ctx: Context, copies: int = 20) -> dict[str, int]:
    """Keep the parsed tree of every file, `copies` times over: gigabytes, where a digest of each would do."""
    files = await ctx.step("survey", survey)
    await ctx.checkpoint("plan", {"files": len(files), "copies": copies})
    trees: list[ast.AST] = []
    for copy in range(copies):
        for number, file in enumerate(files):
            trees.append(await asyncio.to_thread(parse, file))
            ctx.progress((copy + number / len(files)) / copies, f"{len(trees)} trees in memory")
    return {"trees": len(trees)}
