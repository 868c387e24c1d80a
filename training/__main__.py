"""`python -m training FAMILY --data NAME_OR_PATH --out runs/NAME [options]`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import tempfile
from pathlib import Path

import tyro
from pydantic import TypeAdapter, ValidationError

from training import log as logs
from training import loop
from training.checkpoint import BEST, CheckpointError, Facts
from training.config import PRESETS, Config, start
from training.data import BUILTIN, DataError
from training.evaluation import Diverged
from training.history import HistoryError
from training.models import FAMILIES

log = logging.getLogger("training")


def main(arguments: list[str]) -> int:
    """Train as the arguments say; 0 on success, 1 with a message where data or training fail, 2 for wrong arguments."""
    first = argparse.ArgumentParser(
        prog="python -m training",
        description="Train a model and leave the best checkpoint in a run folder.",
        epilog=f"`python -m training FAMILY --help` lists a family's options. Built-in data: {', '.join(sorted(BUILTIN))}.",
    )
    first.add_argument("family", choices=FAMILIES, metavar="FAMILY", help=", ".join(FAMILIES))
    family = first.parse_args(arguments[:1]).family
    try:
        default, rest = _start(family, arguments[1:])
    except (OSError, ValueError) as error:
        return _fail(str(error), 1)
    try:
        config = tyro.cli(
            Config,
            args=rest,
            default=default,
            prog=f"python -m training {family}",
            config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff),
        )
    except ValueError as error:  # options that contradict each other
        return _fail(str(error), 2)
    try:
        logs.configure(config.control.log_format)
        if config.control.find_lr:
            return _find(config)
        if config.control.fast_dev_run:
            return _dev_run(config)
        return _report(config, loop.fit(config))
    except (DataError, Diverged, CheckpointError, HistoryError, ValueError) as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except KeyboardInterrupt:
        return _fail("stopped; the same command with --resume goes on", 130)


def _start(family: str, arguments: list[str]) -> tuple[Config, list[str]]:
    """Where the options start from (a preset, another run's config.json, or the family's defaults), and the options."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--preset", choices=PRESETS)
    peek.add_argument("--config", type=Path)
    known, rest = peek.parse_known_args(arguments)
    peek.add_argument("--data", default="")
    data = peek.parse_known_args(arguments)[0].data
    out = Path("runs") / f"{Path(data).stem or 'DATA'}-{family}"
    if known.preset:
        default = PRESETS[known.preset](Path("runs") / known.preset)
        if not isinstance(default.model, FAMILIES[family][1]):
            raise ValueError(f"the preset {known.preset} is not for the {family} family")
        return default, rest
    if known.config:
        return _recorded(known.config, family), rest
    return start(family, data or tyro.MISSING, out), rest


def _recorded(path: Path, family: str) -> Config:
    """The config that another run left behind, told anew how to start."""
    try:
        values = json.loads(path.read_text())
        model = TypeAdapter(FAMILIES[family][1]).validate_python(values.pop("model"))
        control = values.pop("control", None) and {}
        placeholder = {"model": dataclasses.asdict(model), "control": control}
        return dataclasses.replace(TypeAdapter(Config).validate_python(values | placeholder), model=model)
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no config.json of a {family} run ({str(error).splitlines()[0]})") from None


def _report(config: Config, facts: Facts) -> int:
    """One line per test metric, and where the checkpoint is."""
    assert facts.metrics is not None
    assert facts.test is not None
    for name, value in facts.metrics.items():
        log.info("test %s %.4g", name, value, extra={"facts": {"metric": name, "value": value}})
    if not facts.test.reached():
        log.warning("%s misses its floor of %g: export will refuse this model", facts.test.name, facts.test.floor)
    log.info("best epoch %d: %s", facts.epoch, config.out / BEST)
    return 0


def _find(config: Config) -> int:
    from training import pictures

    found = loop.find_learning_rate(config)
    path = config.out / "learning-rate.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures.finder(path, found.rates, found.losses, found.suggestion)
    log.info("%s", path)
    log.info("try --learning-rate %g", found.suggestion, extra={"facts": {"learning_rate": found.suggestion}})
    return 0


def _dev_run(config: Config) -> int:
    """Every stage on two batches, in a folder that is thrown away."""
    dataset, rows = loop.load(config), slice(2 * config.batch_size)
    few = dataclasses.replace(
        dataset,
        train=lambda epoch: loop.some(dataset.train(epoch), 2 * config.batch_size),
        validation=dataset.validation.rows(rows),
        test=dataset.test.rows(rows),
    )
    with tempfile.TemporaryDirectory() as folder:
        facts = loop.fit(dataclasses.replace(config, out=Path(folder) / config.out.name, epochs=1), few)
    assert facts.metrics is not None
    log.info("everything runs; test metrics on %d rows mean nothing: %s", len(few.test), ", ".join(facts.metrics))
    return 0


def _fail(message: str, status: int) -> int:
    print(f"training: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
