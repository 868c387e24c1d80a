from __future__ import annotations

import dataclasses
import os
import re
import shlex
from pathlib import Path

import pytest
import tyro

from training import loop
from training.__main__ import main
from training.config import PRESETS, Config, Control
from training.data import DataError

DATA = Path(os.environ.get("QUARTET_BENCHMARK_DATA") or Path(__file__).parents[3] / "shared" / "data")
FILES = {
    "mnist-cnn": {"data": "mnist-10k"},
    "vowels-gru": {"data": "japanese-vowels"},
    "sst2-transformer": {"data": "sst2/train.tsv", "validation_data": "sst2/dev.tsv", "test_data": "sst2/test.tsv"},
}


def command(name: str) -> list[str]:
    """The arguments of `python -m training` in a preset's docstring."""
    found = re.match(r"`python -m training ([^`]+)`", PRESETS[name].__doc__)
    assert found, f"{name}: the docstring does not begin with a command"
    return shlex.split(found[1])


def on_data(name: str, config: Config) -> Config:
    """The preset with its files from the folder of benchmark data."""
    files = {field: str(DATA / file) for field, file in FILES.get(name, {}).items()}
    data = files.pop("data", config.data)
    source = dataclasses.replace(config.source, **{field: Path(file) for field, file in files.items()})
    return dataclasses.replace(config, data=data, source=source)


@pytest.mark.parametrize("name", PRESETS)
def test_the_command_in_a_presets_docstring_starts_that_very_preset(name, monkeypatch, capsys):
    started = []

    def fit(config):
        started.append(config)
        raise DataError("not trained")

    monkeypatch.setattr(loop, "fit", fit)
    arguments = command(name)
    given = dict(zip(arguments[1::2], arguments[2::2], strict=True))  # option to value
    assert main(arguments) == 1
    assert "not trained" in capsys.readouterr().err
    preset = PRESETS[name](Path(given["--out"]))
    if preset.data is tyro.MISSING:
        preset = dataclasses.replace(preset, data=given["--data"])
    files = [field for field in ("validation_data", "test_data") if getattr(preset.source, field) is tyro.MISSING]
    files = {field: Path(given[f"--{field.replace('_', '-')}"]) for field in files}
    assert started == [dataclasses.replace(preset, source=dataclasses.replace(preset.source, **files))]


@pytest.mark.parametrize("name", FILES)
def test_a_preset_for_data_that_is_not_built_in_asks_for_it(name, capsys):
    with pytest.raises(SystemExit):
        main(command(name)[:3])
    assert "--data" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trained_as_its_docstring_says_reaches_its_floor(name, tmp_path):
    for file in FILES.get(name, {}).values():
        if not (DATA / file).exists():
            pytest.skip(f"{DATA / file} is not there; QUARTET_BENCHMARK_DATA names the folder of such data")
    config = on_data(name, PRESETS[name](tmp_path / name))
    facts = loop.fit(dataclasses.replace(config, control=Control(pictures=False)))
    assert facts.test.reached(), f"{facts.test.name} is {facts.test.value}, the floor {facts.test.floor}"
