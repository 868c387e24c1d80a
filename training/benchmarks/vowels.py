"""A bidirectional GRU against MiniRocket + ridge on Japanese Vowels: 9 speakers, 270 training and 370 test utterances.

MiniRocket (Dempster et al. 2021) is aeon's, which need not be installed beside Quartet: --aeon-python names the interpreter
that has it. It gets the raw values of all 270 training rows, padded with zeros to the longest, as its authors advise.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import tyro

from training import loop
from training.benchmarks import minirocket
from training.benchmarks.trial import present, show, tested, train
from training.config import vowels_gru
from training.data import Dataset
from training.data.dataset import Split

PIP = "python -m venv aeon && aeon/bin/pip install aeon"


def main(data: Path = Path("../shared/data/japanese-vowels"), seeds: int = 5, aeon_python: Path = Path(sys.executable)) -> None:
    """Train both once per seed.

    Args:
        data: Folder with JapaneseVowels_TRAIN.ts and JapaneseVowels_TEST.ts.
        seeds: Runs of each.
        aeon_python: Interpreter of an environment that has aeon.
    """
    if subprocess.run([aeon_python, "-c", "import aeon"], capture_output=True).returncode:
        raise SystemExit(f"{aeon_python} has no aeon: {PIP}, then --aeon-python aeon/bin/python")
    preset = replace(vowels_gru(Path("vowels")), data=str(present(data, "the folder with the two .ts files")))
    dataset = loop.load(preset)
    rivals = minirockets(aeon_python, dataset, seeds)
    ours = [train(replace(preset, seed=seed), dataset) for seed in range(seeds)]
    rows = {
        "MiniRocket + ridge": ([run["accuracy"] for run in rivals], mean(run["seconds"] for run in rivals)),
        "GRU, preset vowels-gru": ([tested(run) for run in ours], mean(run.seconds for run in ours)),
    }
    beaten = mean(rows["MiniRocket + ridge"][0])
    show(
        f"Japanese Vowels, official split, {len(dataset.test)} test rows",
        ("model", "test accuracy of each seed", "mean", "difference", "seconds a run"),
        [
            (
                name,
                " ".join(f"{accuracy:.4f}" for accuracy in accuracies),
                f"{mean(accuracies):.4f}",
                f"{mean(accuracies) - beaten:+.4f}",
                f"{seconds:.0f}",
            )
            for name, (accuracies, seconds) in rows.items()
        ],
    )


def minirockets(python: Path, dataset: Dataset, seeds: int) -> list[dict[str, float]]:
    """Accuracy and seconds of each seed, from a process of the interpreter that has aeon."""
    longest, parts = dataset.kind.length.max, (dataset.train(1), dataset.validation)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "arrays.npz"
        np.savez(
            path,
            train=np.concatenate([channels_first(part, longest) for part in parts]),
            train_labels=np.concatenate([part.targets for part in parts]),
            test=channels_first(dataset.test, longest),
            test_labels=dataset.test.targets,
        )
        printed = subprocess.run([python, minirocket.__file__, path, str(seeds)], stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in printed.stdout.splitlines()]


def channels_first(split: Split, longest: int) -> npt.NDArray[np.float32]:
    """The series, padded with zeros: [N, channels, longest]."""
    sequence = split.inputs["sequence"]  # [N, T, channels]
    return np.pad(sequence, ((0, 0), (0, longest - sequence.shape[1]), (0, 0))).transpose(0, 2, 1)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m training.benchmarks.vowels", description=__doc__)
