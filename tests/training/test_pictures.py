from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.functional.classification import binary_calibration_error

from modelrepo.preprocessing import Categorical, Numeric
from modelrepo.tasks import Binary, Multiclass, Multilabel, Regression
from modelrepo.tensors import ShapeRange
from training import pictures
from training.data.dataset import Dataset, Images, Rows, Series, Split, Tokens
from training.history import History
from training.models import CNNConfig, MLPConfig, TransformerConfig, build
from training.pictures import canvas, quality
from training.pictures.quality import forecast_of, reliability

N = 60
RNG = np.random.default_rng(0)
PLANE = Rows(columns=(Numeric(name="x", mean=0.0, scale=1.0), Numeric(name="y", mean=0.0, scale=1.0)))
PICTURES = Images(height=8, width=8, mean=(0.5,), scale=(0.3,))
LENGTH = ShapeRange(axis="length", min=4, opt=8, max=12)
STEPS = Series(length=LENGTH, mean=(0.0, 0.0), scale=(1.0, 1.0))
TOKENS = Tokens(vocabulary=50, length=LENGTH)
THREE = Multiclass(labels=("red", "green", "blue"), temperature=1.5)
TWO = Binary(labels=("no", "yes"))
ANY = Multilabel(labels=("a", "b", "c"), temperature=0.7)
PRICE = Regression(targets=("price",), mean=(0.0,), scale=(1.0,))
AHEAD = Regression(targets=("load+1", "load+2", "load+3"))


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    monkeypatch.setattr(canvas, "DPI", 40)  # a picture as coarse as this is drawn in a third of the time


def inputs(kind) -> dict[str, np.ndarray]:
    mask = np.arange(LENGTH.max) < RNG.integers(LENGTH.min, LENGTH.max + 1, N)[:, None]
    match kind:
        case Rows():
            return {"features": RNG.normal(size=(N, len(kind.columns))).astype(np.float32)}
        case Images():
            return {"image": RNG.random((N, len(kind.mean), 8, 8), np.float32)}
        case Series():
            return {"sequence": RNG.normal(size=(N, LENGTH.max, 2)).astype(np.float32), "mask": mask}
        case _:
            return {"tokens": RNG.integers(0, 50, (N, LENGTH.max)) * mask, "mask": mask}


def answers(task) -> tuple[np.ndarray, np.ndarray]:
    """Outputs, and targets that they mostly agree with."""
    outputs = RNG.normal(0, 3, (N, task.outputs)).astype(np.float32)
    noisy = outputs + RNG.normal(0, 2, outputs.shape).astype(np.float32)
    if isinstance(task, Multiclass):
        return outputs, noisy.argmax(1)
    return outputs, noisy if isinstance(task, Regression) else (noisy > 0).astype(np.float32)


def dataset(kind, task, **handling) -> tuple[Dataset, np.ndarray]:
    outputs, targets = answers(task)
    split = Split(inputs(kind), targets)
    return Dataset(name="d", kind=kind, task=task, train=lambda _: split, validation=split, test=split, handling=handling), outputs


def shows(path: Path) -> np.ndarray:
    """The picture's pixels, after making sure that it is one and that something is on it."""
    with Image.open(path) as image:
        image.load()
        pixels = np.asarray(image.convert("RGB"))
    assert image.format == "PNG"
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    return pixels


def record(folder: Path, layers: int = 3) -> None:
    with History(folder, run="r", config={}) as history:
        for epoch in range(1, 4):
            history.log_step(10 * epoch, {"train/loss": 1 / epoch, "learning_rate": 0.1 / epoch})
            norms = {f"gradient_norm/layer{n}": 10.0**-n * (n != 1) for n in range(layers)}
            values = {"train/loss": 1 / epoch, "validation/loss": 2 / epoch, "validation/accuracy": 1 - 1 / epoch}
            history.log_epoch(epoch, 10 * epoch, values | norms)


@pytest.mark.parametrize(
    ("config", "kind", "task", "handling", "expected"),
    [
        pytest.param(
            MLPConfig(hidden=(4,)), PLANE, THREE, {}, {"confusion", "calibration", "decision_boundary"}, id="classes in a plane"
        ),
        pytest.param(
            MLPConfig(hidden=(4,)), PLANE, TWO, {}, {"confusion", "calibration", "decision_boundary"}, id="two classes in a plane"
        ),
        pytest.param(MLPConfig(hidden=(4,)), PLANE, PRICE, {}, {"predicted", "decision_boundary"}, id="a value over a plane"),
        pytest.param(MLPConfig(hidden=(4,)), PLANE, ANY, {}, {"confusion", "calibration"}, id="labels that exclude none"),
        pytest.param(
            MLPConfig(hidden=(4,)),
            Rows(columns=(*PLANE.columns[:1], Categorical(name="port", categories=("Kiel", "Bremen")))),
            THREE,
            {},
            {"confusion", "calibration"},
            id="a category makes no plane",
        ),
        pytest.param(
            CNNConfig(channels=(4,), blocks=1), PICTURES, THREE, {}, {"confusion", "calibration", "kernels"}, id="kernels of a CNN"
        ),
        pytest.param(CNNConfig(channels=(4,), blocks=1), STEPS, PRICE, {}, {"predicted", "kernels"}, id="kernels over time"),
        pytest.param(
            TransformerConfig(dim=8, heads=2, layers=2, feedforward=8),
            TOKENS,
            THREE,
            {},
            {"confusion", "calibration", "attention"},
            id="attention of a Transformer",
        ),
        pytest.param(
            TransformerConfig(dim=8, heads=2, layers=1, feedforward=8),
            STEPS,
            AHEAD,
            {"channels": ["load", "weather"]},
            {"predicted", "forecast", "attention"},
            id="a forecast",
        ),
    ],
)
def test_a_run_gets_the_pictures_that_fit_it(config, kind, task, handling, expected, tmp_path):
    torch.manual_seed(0)
    data, outputs = dataset(kind, task, **handling)
    model = build(config, kind, task).eval()
    drawn = pictures.draw(tmp_path, model=model, dataset=data, task=task, outputs=outputs)
    assert {path.stem for path in drawn} == expected
    for path in drawn:
        shows(path)


def test_what_the_history_records_is_drawn_too_and_pictures_of_a_run_before_go(tmp_path):
    record(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "kernels.png").write_bytes(b"of a run before")
    data, outputs = dataset(PLANE, ANY)
    model = build(MLPConfig(hidden=(4,)), PLANE, ANY).eval()
    drawn = pictures.draw(tmp_path, model=model, dataset=data, task=ANY, outputs=outputs, best=2)
    assert {path.stem for path in drawn} == {"curves", "learning_rate", "gradient_norms", "confusion", "calibration"}
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {path.name for path in drawn}
    for path in drawn:
        shows(path)


def test_a_picture_that_cannot_be_drawn_costs_a_warning_and_not_the_others(tmp_path, monkeypatch, caplog):
    def broken(*arguments, **options):
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr(pictures, "confusion", broken)
    data, outputs = dataset(PLANE, ANY)
    model = build(MLPConfig(hidden=(4,)), PLANE, ANY).eval()
    with caplog.at_level(logging.WARNING, logger="training"):
        drawn = pictures.draw(tmp_path, model=model, dataset=data, task=ANY, outputs=outputs)
    assert [path.stem for path in drawn] == ["calibration"]
    assert "the picture confusion.png could not be drawn (ZeroDivisionError: no such luck)" in caplog.text


def test_drawing_needs_no_screen_and_leaves_no_figures_behind(tmp_path):
    record(tmp_path)
    code = (
        "import sys; from pathlib import Path; from training import pictures; from training.history import read_epochs\n"
        "assert 'matplotlib' not in sys.modules  # so that training starts without it\n"
        f"pictures.curves(Path({str(tmp_path)!r}) / 'c.png', read_epochs(Path({str(tmp_path)!r})))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shows(tmp_path / "c.png")


@pytest.mark.parametrize("layers", [pytest.param(8, id="lines"), pytest.param(9, id="a map")])
def test_gradients_of_few_and_of_many_layers_can_be_drawn_one_of_them_zero(layers, tmp_path):
    record(tmp_path, layers)
    pictures.gradient_norms(tmp_path / "g.png", pictures.read_epochs(tmp_path))
    shows(tmp_path / "g.png")


@pytest.mark.parametrize("layers", [pytest.param(2, id="lines"), pytest.param(20, id="a map")])
def test_gradients_that_are_all_zero_or_no_number_can_be_drawn(layers, tmp_path):
    rows = [{"epoch": e, "step": e, **{f"gradient_norm/{n}": (0.0, np.nan, np.inf)[n % 3] for n in range(layers)}} for e in (1, 2)]
    pictures.gradient_norms(tmp_path / "g.png", rows)
    shows(tmp_path / "g.png")


def test_one_epoch_whose_loss_is_no_number_can_be_drawn(tmp_path):
    pictures.curves(tmp_path / "c.png", [{"epoch": 1, "step": 1, "train/loss": np.nan, "validation/loss": np.inf}], best=1)
    shows(tmp_path / "c.png")


def test_the_range_test_shows_where_it_suggests(tmp_path):
    rates = np.geomspace(1e-6, 1, 50)
    pictures.finder(tmp_path / "f.png", rates.tolist(), [*(2 - 1 / (1 + 1e-3 / rates[:-1])), np.inf], 1e-3)
    shows(tmp_path / "f.png")


@pytest.mark.parametrize("count", [pytest.param(2, id="two"), pytest.param(150, id="150")])
def test_labels_of_any_number_and_spelling_can_be_drawn(count, tmp_path):
    task = Multiclass(labels=("$5 or $6, as\nthe case may be $", *(f"雨 {n}" for n in range(1, count))))
    outputs = RNG.normal(size=(300, count)).astype(np.float32)
    pictures.confusion(tmp_path / "c.png", task, outputs, outputs.argmax(1))
    shows(tmp_path / "c.png")


def drawn_cells(monkeypatch, task, outputs, targets) -> list[tuple[str, int, int]]:
    """The numbers written on a confusion matrix: text, row, column."""
    kept = []
    monkeypatch.setattr(quality, "save", lambda figure, path: kept.append(figure))
    pictures.confusion(Path("unused"), task, outputs, targets)
    return [(text.get_text(), int(text.get_position()[1]), int(text.get_position()[0])) for text in kept[0].axes[0].texts]


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "cells"),
    [
        pytest.param(
            THREE, [[9, 0, 0], [9, 0, 0], [0, 9, 0]], np.array([0, 1, 1]), [("1", 0, 0), ("1", 1, 0), ("1", 1, 1)], id="multiclass"
        ),
        pytest.param(TWO, [[1], [1], [-1]], np.array([[1], [0], [0]]), [("1", 0, 0), ("1", 0, 1), ("1", 1, 1)], id="binary"),
        pytest.param(
            Multilabel(labels=("a", "b")),
            [[1, 1], [1, -1], [-1, -1]],
            np.array([[1, 0], [1, 1], [1, 0]]),
            [("2", 0, 0), ("1", 0, 1), ("1", 1, 1), ("1", 1, 2), ("1", 1, 3)],
            id="multilabel: given, missed, false alarm, rightly not",
        ),
    ],
)
def test_a_confusion_counts_true_labels_down_and_answers_across(task, outputs, targets, cells, monkeypatch):
    assert drawn_cells(monkeypatch, task, np.array(outputs, np.float32), targets) == cells


def test_calibration_is_what_torchmetrics_measures():
    confidence = RNG.random(2000)
    right = (RNG.random(2000) < confidence**2).astype(np.float64)
    mean, share, count = reliability(confidence, right)
    error = (count * np.abs(mean - share)).sum() / count.sum()
    expected = binary_calibration_error(torch.from_numpy(confidence), torch.from_numpy(right).long(), n_bins=15)
    assert error == pytest.approx(float(expected), abs=1e-6)
    assert count.sum() == 2000


def test_a_certain_and_an_impossible_answer_fall_into_bins_too():
    mean, share, count = reliability(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    assert (mean.tolist(), share.tolist(), count.tolist()) == ([0, 1], [0, 1], [1, 1])


def test_targets_that_never_vary_can_be_drawn(tmp_path):
    ones = np.ones((5, 1), np.float32)
    pictures.predicted(tmp_path / "p.png", PRICE, ones, ones)
    shows(tmp_path / "p.png")


@pytest.mark.parametrize(
    ("targets", "channels", "found"),
    [
        (("load+1", "load+2"), ("load",), ("load", 2)),
        (("load+1", "load+2", "sun+1", "sun+2"), ("sun", "load"), ("load", 2)),
        (("c+1", "c+2"), ("load",), None),
        (("load+1",), ("load",), None),
        (("load", "sun"), ("load", "sun"), None),
    ],
)
def test_a_forecast_is_told_by_its_targets_and_channels(targets, channels, found):
    assert forecast_of(Regression(targets=targets), channels) == found


def test_kernels_of_three_channels_are_shown_in_colour(tmp_path):
    pictures.kernels(tmp_path / "k.png", nn.Conv2d(3, 4, 5))
    pixels = shows(tmp_path / "k.png").reshape(-1, 3).astype(int)
    assert (np.ptp(pixels, axis=1) > 30).mean() > 0.2
