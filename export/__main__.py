"""`python -m export RUN … --repository models`, and `python -m export copy …` for a version that is published already."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import get_args

from export import layouts
from modelrepo.errors import QuartetError
from modelrepo.repository import Repository

TABLE_WIDTH = 110  # a pipe says 80, which would cut the figures off


def main(arguments: list[str]) -> int:
    """Do as the arguments say; 0 on success, 1 with messages where anything failed, 2 for wrong arguments."""
    return copy(arguments[1:]) if arguments[:1] == ["copy"] else export(arguments)


def export(arguments: list[str]) -> int:
    """Export every run named."""
    from rich.console import Console  # these need what a machine that only serves does not have, torch among them

    from export.pipeline import export_run
    from export.report import Report, print_table

    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turn the best checkpoint of each run into ONNX and, where TensorRT is installed, an engine; "
        "prove them equal to PyTorch; publish the next version of each model.",
        epilog="`python -m export copy --help`: a published version in the layout of another server.",
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


def copy(arguments: list[str]) -> int:
    """Copy a published version into the layout of another server."""
    parser = argparse.ArgumentParser(
        prog="python -m export copy",
        description="Copy a published version into the folders that another server reads.",
    )
    parser.add_argument("--repository", required=True, type=Path, help="folder that `python -m export` published to")
    parser.add_argument("--model", required=True, metavar="NAME[:VERSION]", help="default: the newest version")
    parser.add_argument(
        "--layout", required=True, choices=get_args(layouts.Layout), help="triton: a model repository; kserve: for a storageUri"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write to; made where it is missing")
    chosen = parser.parse_args(arguments)
    name, _, version = chosen.model.partition(":")
    if version and not version.isdecimal():
        parser.error(f"--model takes NAME or NAME:VERSION with a number, not {chosen.model!r}")
    try:
        published = Repository(chosen.repository).open(name, int(version) if version else None)
        print(layouts.copy(published, chosen.layout, chosen.out))
    except QuartetError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"export: {error.filename or chosen.out}: {error.strerror}; nothing copied", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
