"""A small VGG against LeNet-5, both trained alike on 8,000 digits of MNIST and tested on 2,000.

LeNet-5 and networks of its class reach about 98 % with so few digits.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean

import tyro

from training.benchmarks.trial import present, show, tested, train
from training.config import mnist_cnn
from training.models import CNNConfig


def main(data: Path = Path("../shared/data/mnist-10k"), seeds: int = 3) -> None:
    """Train each network once per seed, in turn.

    Args:
        data: Folder with the 10,000 images and labels of MNIST's test files.
        seeds: Runs of each network.
    """
    preset = replace(mnist_cnn(Path("mnist")), data=str(present(data, "the folder with the digits")))
    networks = {"LeNet-5": CNNConfig(architecture="lenet5"), "VGG, preset mnist-cnn": preset.model}
    runs = {name: [] for name in networks}
    for seed in range(seeds):
        for name, model in networks.items():
            runs[name].append(train(replace(preset, model=model, seed=seed)))
    lenet5 = mean(map(tested, runs["LeNet-5"]))
    show(
        f"MNIST, {runs['LeNet-5'][0].rows['test']} test rows; published for networks like LeNet-5: about 98 %",
        ("network", "parameters", "test accuracy of each seed", "mean", "difference", "seconds a run"),
        [
            (
                name,
                f"{facts[0].parameters:,}",
                " ".join(f"{tested(run):.4f}" for run in facts),
                f"{mean(map(tested, facts)):.4f}",
                f"{mean(map(tested, facts)) - lenet5:+.4f}",
                f"{mean(run.seconds for run in facts):.0f}",
            )
            for name, facts in runs.items()
        ],
    )


if __name__ == "__main__":
    tyro.cli(main, prog="python -m training.benchmarks.mnist", description=__doc__)
