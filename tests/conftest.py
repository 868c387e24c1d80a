"""Fixtures that several tests share."""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch
from torch.onnx._internal._lazy_import import onnxscript_apis

from export import profile
from export.pipeline import Options, export_run
from modelrepo.repository import Repository
from runtime import cuda
from training import config, loop
from training.models import CNNConfig, LSTMConfig, MLPConfig, TransformerConfig

# One thread, here and in every process that a test starts: quicker for small models, tests at once share the cores, and sums
# are equal to the bit only where the number of threads is.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
profile.SECONDS = 0.02  # tests ask which figures there are, not how steady they are
# torch.onnx parses its 557 operators anew for every export, a second that no tiny network needs twice.
onnxscript_apis.get_torchlib_ops = functools.cache(onnxscript_apis.get_torchlib_ops)

hypothesis.settings.register_profile("quartet", deadline=None)  # other work on the machine is no fault of an example
hypothesis.settings.load_profile("quartet")

PLAIN = config.Control(pictures=False)
TINY = {
    "mlp": dataclasses.replace(config.spirals_mlp(Path()), model=MLPConfig(hidden=(8,)), epochs=2, floor=None, control=PLAIN),
    "cnn": dataclasses.replace(config.digits_cnn(Path()), model=CNNConfig(channels=(4, 8)), epochs=1, floor=None, control=PLAIN),
    "lstm": dataclasses.replace(
        config.adding_lstm(Path()), model=LSTMConfig(hidden=8), epochs=1, batch_size=256, floor=None, control=PLAIN
    ),
    "transformer": dataclasses.replace(
        config.recall_transformer(Path()),
        model=TransformerConfig(dim=16, layers=1, heads=2),
        epochs=1,
        batch_size=512,
        floor=None,
        control=PLAIN,
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not cuda.available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU, or cuda-bindings not installed"))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first of xdist's processes makes, and the others wait for. Tests only read in it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            make(folder)
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run folder of each family, trained for seconds: right in every way but its score."""

    def train(root: Path) -> None:
        for family, tiny in TINY.items():
            loop.fit(dataclasses.replace(tiny, out=root / f"tiny-{family}"))

    root = made_once(tmp_path_factory, "tiny-runs", train)
    return {family: root / f"tiny-{family}" for family in TINY}


@pytest.fixture(scope="session")
def tiny_models(tiny_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Each of these published in fp32, as `tiny-FAMILY:1`."""

    def publish(root: Path) -> None:
        for family, run in tiny_runs.items():
            export_run(run, Repository(root / "models"), f"tiny-{family}", Options(tensorrt="off", precisions=("fp32",)))

    return Repository(made_once(tmp_path_factory, "tiny-models", publish) / "models")
