"""The three models that every server serves: generated data, a short training, and Quartet's own export, kept between runs.

They are as large as those that the other servers were first measured with; how well they have learnt matters only as far as their
answers must differ from row to row.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtests.server import ROOT
from modelrepo.manifest import Candidate
from modelrepo.repository import ModelVersion, Repository
from modelrepo.tensors import Tensors

FAMILIES = ("mlp", "cnn", "transformer")
SHORTEST, LONGEST = 4, 128  # tokens
FEATURES, CLASSES = 64, 10
TRAINING = {
    "mlp": ("--data", "{data}/mlp.npz", "--model.hidden", "256", "256", "--epochs", "5"),
    # 118 k parameters and 34 M multiplications a row.
    "cnn": ("--data", "{data}/cnn.npz", "--model.channels", "32", "88", "--epochs", "2"),
    "transformer": (
        *("--data", "{data}/transformer.csv", "--text", "text", "--target", "mood", "--vocabulary", "1000"),
        *("--max-length", str(LONGEST), "--model.dim", "128", "--model.layers", "4", "--model.heads", "4"),
        *("--model.feedforward", "512", "--model.pooling", "mean", "--epochs", "1"),
    ),
}


class NotMade(Exception):
    """A model could not be trained or exported; the message holds the end of what that command said."""


@dataclass(frozen=True)
class Served:
    """One model, ready to be served by anybody."""

    name: str
    version: ModelVersion
    """As it was exported: every way to serve it that passed, fastest first."""
    fp32: Path
    """Repository of the same version that ONNX Runtime serves in fp32, as the peers do."""
    fastest: Path
    """Repository of the version as it was exported."""
    held_out: Tensors
    """Rows that were not trained on; sequences are padded, and `mask` says how far they are real."""

    @property
    def onnx(self) -> Path:
        """The plain fp32 file, which the peers serve."""
        return self.version.path / self.version.manifest.onnx.file.path

    @property
    def fastest_way(self) -> str:
        """What the version as it was exported is served with on a CPU."""
        return next(f"{c.precision}, {c.backend}, {c.artifact}" for c in self.version.manifest.candidates if c.device == "cpu")


def make(name: str, work: Path) -> Served:
    """The model below `work`, trained and exported where it is not there yet. Raises NotMade."""
    data, run, exported = work / "data", work / "runs" / name, work / "exported" / name
    if not (exported / name / "1").exists():
        data.mkdir(parents=True, exist_ok=True)
        WRITERS[name](data)
        options = [option.format(data=data) for option in TRAINING[name]]
        _run("training", name, *options, "--floor", "0.2", "--out", str(run), "--reuse", "--resume", "--no-pictures")
        _run("export", str(run), "--repository", str(exported), "--tensorrt", "off")
    version = Repository(exported).open(name)
    fp32 = work / "fp32" / name
    if not (fp32 / name / "1").exists():
        plain = tuple(
            c for c in version.manifest.candidates if (c.backend, c.device, c.precision) == ("onnxruntime", "cpu", "fp32")
        )
        publish_as(version, name, fp32, plain)
    (holdout,) = run.glob("holdout-*.npz")
    with np.load(holdout) as arrays:
        held_out = {spec.name: arrays[spec.name] for spec in version.manifest.signature.inputs}
    return Served(name, version, fp32, exported, held_out)


def publish_as(version: ModelVersion, name: str, root: Path, candidates: tuple[Candidate, ...] | None = None) -> None:
    """Publish a version once more, as `name` below `root`; with only those ways to serve it, where they are given."""
    manifest = version.manifest
    if candidates is not None:
        manifest = manifest.model_copy(update={"candidates": candidates})
    with Repository(root).stage(name) as staging:
        for file in manifest.files():
            shutil.copyfile(version.path / file.path, staging.path / file.path)
        staging.publish(manifest)


def _run(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n    ".join((done.stdout + done.stderr).splitlines()[-8:])
        raise NotMade(f"python -m {' '.join(command[2:])}: exit status {done.returncode}\n    {tail}")


def _write_mlp(data: Path) -> None:
    """Rows around a centre per class, as measurements with four decimals."""
    rng = np.random.default_rng(1)
    centres = rng.normal(0, 1, (CLASSES, FEATURES))
    y = rng.integers(0, CLASSES, 3000)
    X = np.round(centres[y] + rng.normal(0, 1.5, (len(y), FEATURES)), 4)
    np.savez(data / "mlp.npz", X=X.astype(np.float32), y=y)


def _write_cnn(data: Path) -> None:
    """Pictures of 28x28 grey values: each class is a grating of its own direction and width, shifted at random, under noise."""
    rng = np.random.default_rng(2)
    y = rng.integers(0, CLASSES, 2000)
    angle = y * np.pi / CLASSES
    across, down = np.meshgrid(np.arange(28), np.arange(28))
    along = np.cos(angle)[:, None, None] * across + np.sin(angle)[:, None, None] * down  # [N, 28, 28]
    wave = np.sin(along / 2 + rng.uniform(0, 2 * np.pi, (len(y), 1, 1)))
    X = np.clip(127 + 80 * wave + rng.normal(0, 30, along.shape), 0, 255).astype(np.uint8)
    np.savez(data / "cnn.npz", X=X, y=y)


def _write_transformer(data: Path) -> None:
    """Texts of 4 to 128 words from an invented language, in which some words are glad, some are sad, and most are neither."""
    rng = np.random.default_rng(3)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = np.array(sorted({"".join(rng.choice(syllables, rng.integers(2, 5))) for _ in range(500)}))
    rng.shuffle(words)
    rarity = 1 / (np.arange(len(words)) + 10)
    with (data / "transformer.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("text", "mood"))
        for _ in range(1500):
            glad = rng.integers(0, 2)
            weight = rarity.copy()
            weight[glad::10] *= 5  # a tenth of the words belongs to each mood
            text = rng.choice(words, rng.integers(SHORTEST, LONGEST + 1), p=weight / weight.sum())
            lines.writerow((" ".join(text), "glad" if glad else "sad"))


WRITERS = {"mlp": _write_mlp, "cnn": _write_cnn, "transformer": _write_transformer}
