"""`python -m loadtests.with_server REPOSITORY -- COMMAND …`: a server for as long as a command runs.

`{url}` among the command's words is where the server listens. The exit status is the command's, 2 where the server did not start.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtests.server import NotStarted, Server


def main(arguments: list[str]) -> int:
    """Start, run, stop."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.with_server", description=__doc__)
    parser.add_argument("repository", type=Path, help="published models")
    parser.add_argument("command", nargs="+", help="after --")
    chosen = parser.parse_args(arguments)
    try:
        return asyncio.run(_run(chosen.repository.resolve(), chosen.command))
    except NotStarted as error:
        print(f"the server did not start: {error}", file=sys.stderr)  # noqa: T201  # a command line prints
        return 2


async def _run(repository: Path, command: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="quartet-server-") as folder:
        async with Server(repository, Path(folder) / "server.log", device="auto") as server:
            words = [word.replace("{url}", server.url) for word in command]
            return await asyncio.to_thread(subprocess.call, words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
