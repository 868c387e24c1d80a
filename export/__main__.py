"""`python -m export RUN … --repository models`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rich.console import Console

from export.pipeline import export_run
from export.report import Report, print_table
from modelrepo.errors import QuartetError
from modelrepo.repository import Repository

TABLE_WIDTH = 110  # a pipe says 80, which would cut the figures off


def main(arguments: list[str]) -> int:
    """Export every run named; 0 where all were published, 1 with messages where any was not, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turn the best checkpoint of each run into ONNX and, where TensorRT is installed, an engine; "
        "prove them equal to PyTorch; publish the next version of each model.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder that `python -m training` wrote")
    parser.add_argument("--repository", required=True, type=Path, help="folder to publish to; made where it is missing")
    parser.add_argument("--name", help="name of the model, for a single RUN; default: the run folder's name")
    parser.add_argument(
        "--tensorrt",
        choices=("auto", "off", "tensorrt", "tensorrt-rtx"),
        default="auto",
        help="which TensorRT builds an engine; auto: whichever is installed and can build here",
    )
    parser.add_argument("--reuse", action="store_true", help="keep the newest version where it was made from this very checkpoint")
    chosen = parser.parse_args(arguments)
    if chosen.name is not None and len(chosen.runs) > 1:
        parser.error("--name goes with a single RUN")

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("export").setLevel(logging.INFO)
    repository = Repository(chosen.repository)
    done: list[tuple[Report, int]] = []
    failed = 0
    for run in chosen.runs:
        try:
            name = run.resolve().name if chosen.name is None else chosen.name
            done.append(export_run(run, repository, name, chosen.tensorrt, chosen.reuse))
        except QuartetError as error:
            print(f"export: {error}", file=sys.stderr)
            failed += 1
        except OSError as error:
            print(f"export: {run}: {error.filename or chosen.repository}: {error.strerror}; nothing published", file=sys.stderr)
            failed += 1
    if done:
        console = Console()
        print_table(done, Console(width=max(console.width, TABLE_WIDTH)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
