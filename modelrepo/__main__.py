"""`python -m modelrepo pull URL --repository models`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from modelrepo.errors import RepositoryError
from modelrepo.pull import FORM, pull
from modelrepo.repository import Repository


def main(arguments: list[str]) -> int:
    """Do as the arguments say; 0 on success, 1 with a message where it failed, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m modelrepo", description="Bring published versions into a repository.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "pull", help="from an archive at a URL", description="Add the versions in an archive to a repository."
    )
    command.add_argument("url", metavar="URL", help=FORM)
    command.add_argument("--repository", required=True, type=Path, help="folder to add them to; made where it is missing")
    chosen = parser.parse_args(arguments)
    try:
        for name in pull(chosen.url, Repository(chosen.repository)):
            print(name)
    except RepositoryError as error:
        print(f"pull: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
