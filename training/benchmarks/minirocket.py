"""MiniRocket + ridge (Dempster et al. 2021) as aeon has it: a script of its own, for the interpreter that has aeon.

`python minirocket.py ARRAYS.npz SEEDS` prints one JSON object a seed, its accuracy and seconds. The archive holds `train` and
`test` [N, channels, T] float32, padded with zeros to one length, and their labels.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np


def main(path: Path, seeds: int) -> None:
    """Fit and judge once per seed."""
    from aeon.classification.convolution_based import MiniRocketClassifier

    with np.load(path) as arrays:
        train, test, train_labels, test_labels = (arrays[name] for name in ("train", "test", "train_labels", "test_labels"))
    for seed in range(seeds):
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about features that are constant
            model = MiniRocketClassifier(random_state=seed).fit(train, train_labels)
        accuracy = float((model.predict(test) == test_labels).mean())
        sys.stdout.write(json.dumps({"accuracy": accuracy, "seconds": time.perf_counter() - began}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
