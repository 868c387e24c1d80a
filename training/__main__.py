"""`python -m training FAMILY --data NAME --out runs/NAME [options]`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import tyro

from training.checkpoint import BEST
from training.config import Config, preset
from training.data import BUILTIN, DataError
from training.loop import Diverged, fit
from training.models import FAMILIES


def main(arguments: list[str]) -> int:
    """Train as the arguments say; 0 on success, 1 with a message where data or training fail, 2 for wrong arguments."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("training").setLevel(logging.INFO)
    first = argparse.ArgumentParser(
        prog="python -m training",
        description="Train a model and leave the best checkpoint in a run folder.",
        epilog=f"`python -m training FAMILY --help` lists a family's options. Built-in data: {', '.join(BUILTIN)}.",
    )
    first.add_argument("family", choices=FAMILIES, metavar="FAMILY", help=", ".join(FAMILIES))
    family = first.parse_args(arguments[:1]).family
    # The data decides which preset the other options start from.
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--data", default="")
    known, _ = peek.parse_known_args(arguments[1:])
    default = preset(family, known.data or tyro.MISSING, Path("runs") / f"{known.data or 'DATA'}-{family}")
    try:
        config = tyro.cli(
            Config,
            args=arguments[1:],
            default=default,
            prog=f"python -m training {family}",
            config=(tyro.conf.AvoidSubcommands,),
        )
        facts = fit(config)
    except (DataError, Diverged, ValueError) as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"training: {error.filename or default.out}: {error.strerror}", file=sys.stderr)
        return 1
    test = facts.test
    assert test is not None  # fit judged the model
    floor = "" if test.floor is None else f" (floor {test.floor:g}{'' if test.reached() else ': MISSED, export will refuse it'})"
    print(f"test {test.name} {test.value:.4g}{floor}, epoch {facts.epoch}: {config.out / BEST}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
