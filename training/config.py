"""What a run is made of, and the presets: functions whose docstring states command, time and expected result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from training.augment import Augment
from training.data.source import Source
from training.models import FAMILIES, CNNConfig, LSTMConfig, MLPConfig, ModelConfig, TransformerConfig
from training.optimisation import Optimisation
from training.tasks import Loss

Flat = tyro.conf.arg(name="")  # --learning-rate rather than --optimisation.learning-rate


@dataclass(frozen=True, kw_only=True)
class Control:
    """How a run is started, watched and stopped. Another start of the same run may choose otherwise."""

    resume: bool = False
    """Go on where OUT holds a run that was cut off; start anew where it does not."""
    fresh: bool = False
    """Throw away a run in OUT that was cut off. A finished one stays until this one has finished too."""
    reuse: bool = False
    """Keep a finished run of this very config where OUT holds one."""
    save_every: int | None = None
    """Also save after every so many steps, not only after each epoch."""
    max_time: float | None = None
    """Stop after this many minutes, and take what is best by then."""
    fast_dev_run: bool = False
    """Two batches through everything, in a folder that is thrown away: does it run at all?"""
    find_lr: bool = False
    """Try rising learning rates on one network, save a picture, suggest one, and stop."""
    pictures: bool = True
    """Draw the run's pictures when it ends."""
    log_format: Literal["text", "json"] = "text"
    """Progress for people, or one JSON object a line."""

    def __post_init__(self) -> None:
        if self.save_every is not None and self.save_every < 1:
            raise ValueError(f"save_every must be at least 1 step, not {self.save_every}")
        if self.resume and self.fresh:
            raise ValueError("resume keeps what fresh throws away: leave one out")
        if self.max_time is not None and not self.max_time > 0:
            raise ValueError(f"max_time must be above 0 minutes, not {self.max_time}")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run."""

    data: str
    """A built-in data set, or a file or folder: CSV, Parquet, JSONL, NPZ, IDX, .ts, images in a folder per class."""
    out: Path
    """Folder of the run."""
    model: ModelConfig
    """The network."""
    source: Annotated[Source, Flat] = field(default_factory=Source)
    """Reading and splitting your own data."""
    optimisation: Annotated[Optimisation, Flat] = field(default_factory=Optimisation)
    """Optimiser and learning rate."""
    loss: Loss = field(default_factory=Loss)
    """What is minimised."""
    augment: Augment = field(default_factory=Augment)
    """Random changes to training rows."""
    epochs: int = 20
    """Passes over the training split."""
    batch_size: int = 64
    """Rows per optimiser step, over all processes."""
    seed: int = 0
    """Of the initial weights, the order of rows, dropout and augmentation."""
    patience: int | None = None
    """Stop after this many epochs without a better validation metric. The best epoch is what is kept in any case."""
    keep: Literal["best", "last"] = "best"
    """Which epoch is the result: the best by validation metric, or the last, for data too small to choose by."""
    floor: float | None = None
    """What the test metric must reach for the model to be exported."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    deterministic: bool = False
    """Refuse operations that differ from run to run on a GPU; on a CPU runs repeat to the bit in any case."""
    compile: bool = False
    """Let torch.compile fuse the network (needs a C++ compiler)."""
    overfit_batches: int | None = None
    """Train and validate on this many batches only, always the same: a network that cannot learn these by heart is broken."""
    control: Annotated[Control, Flat] = field(default_factory=Control)
    """How the run is started, watched and stopped."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "overfit_batches"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")
        if self.optimisation.accumulate > self.batch_size:
            raise ValueError(f"accumulate ({self.optimisation.accumulate}) divides a batch of only {self.batch_size} rows")
        if self.keep == "last" and self.patience:
            raise ValueError("keep=last looks at no validation metric, so patience has nothing to wait for: leave one out")


def spirals_mlp(out: Path) -> Config:
    """`python -m training mlp --data spirals --out runs/spirals-mlp`: seconds on 2 cores, test accuracy about 0.99."""
    return Config(data="spirals", out=out, model=MLPConfig(hidden=(64, 64)), epochs=30, floor=0.97)


def digits_cnn(out: Path) -> Config:
    """`python -m training cnn --data digits --out runs/digits-cnn`: under a minute on 2 cores, test accuracy about 0.99."""
    return Config(
        data="digits",
        out=out,
        model=CNNConfig(blocks=2),
        optimisation=Optimisation(weight_decay=0.05),
        augment=Augment(shift=1),
        epochs=40,
        floor=0.98,
    )


def adding_lstm(out: Path) -> Config:
    """`python -m training lstm --data adding --out runs/adding-lstm`: under a minute on 2 cores, test MSE about 0.001."""
    return Config(
        data="adding", out=out, model=LSTMConfig(hidden=64), optimisation=Optimisation(learning_rate=5e-3), epochs=20, floor=0.02
    )


def recall_transformer(out: Path) -> Config:
    """`python -m training transformer --data recall --out runs/recall-transformer`: under a minute, test accuracy about 0.999."""
    return Config(
        data="recall", out=out, model=TransformerConfig(), optimisation=Optimisation(learning_rate=3e-3), epochs=12, floor=0.98
    )


def adding_100_lstm(out: Path) -> Config:
    """`python -m training lstm --data adding-100 --out runs/adding-100-lstm`: a minute on 2 cores, test MSE about 0.0005.

    With `--model.cell rnn` it stays near the 0.167 of guessing the mean; gru and ssm solve it too.
    """
    return Config(
        data="adding-100",
        out=out,
        model=LSTMConfig(hidden=64),
        optimisation=Optimisation(learning_rate=5e-3),
        epochs=10,
        floor=0.02,
    )


def breast_cancer_mlp(out: Path) -> Config:
    """`python -m training mlp --data breast-cancer --out runs/breast-cancer-mlp`: seconds on 2 cores, test accuracy about 0.98."""
    return Config(
        data="breast-cancer",
        out=out,
        model=MLPConfig(hidden=(64,), norm="none", residual=True, dropout=0.5),
        optimisation=Optimisation(weight_decay=1.0),
        epochs=100,
        batch_size=32,
        keep="last",
        floor=0.95,
    )


def mnist_cnn(out: Path) -> Config:
    """`python -m training cnn --preset mnist-cnn --data PATH --out runs/mnist-cnn`, where PATH is a folder with 10,000 digits.

    Keeps 2,000 of them for the test. Two minutes on 2 cores, test accuracy about 0.993.
    """
    return Config(
        data=tyro.MISSING,
        out=out,
        source=Source(validation=0.02),  # to calibrate by; the last epoch is kept, so nothing is chosen by it
        model=CNNConfig(architecture="vgg", channels=(16, 32, 64), blocks=2, dropout=0.3),
        optimisation=Optimisation(learning_rate=3e-3, schedule="one-cycle", ema=0.99),
        loss=Loss(label_smoothing=0.1),
        augment=Augment(rotate=10, shift=2),
        epochs=12,
        keep="last",
        floor=0.985,
    )


def vowels_gru(out: Path) -> Config:
    """`python -m training lstm --preset vowels-gru --data PATH --out runs/vowels-gru`, where PATH holds the two .ts files.

    Under a minute on 2 cores, test accuracy about 0.989.
    """
    return Config(
        data=tyro.MISSING,
        out=out,
        source=Source(validation=0.04),  # to calibrate by; the last epoch is kept, so nothing is chosen by it
        model=LSTMConfig(cell="gru", bidirectional=True, pooling="mean", dropout=0.5),
        optimisation=Optimisation(learning_rate=0.01, schedule="constant", ema=0.99),
        augment=Augment(jitter=0.2, offset=0.4, time_mask=0.3),
        epochs=60,
        batch_size=32,
        keep="last",
        floor=0.97,
    )


def sst2_transformer(out: Path) -> Config:
    """`python -m training transformer --preset sst2-transformer --data train.tsv --validation-data dev.tsv --test-data test.tsv
    --out runs/sst2-transformer`: half a minute on 2 cores, test accuracy about 0.805. Lines are a sentence, a tab, and 0 or 1.
    """
    return Config(
        data=tyro.MISSING,
        out=out,
        source=Source(
            validation_data=tyro.MISSING,
            test_data=tyro.MISSING,
            header=False,
            text="1",
            target=("2",),
            lowercase=True,
            vocabulary=16_000,
            max_length=64,
        ),
        model=TransformerConfig(
            dim=128, layers=1, feedforward=128, dropout=0.5, norm="none", positions="rotary", pooling="mean", embedding_std=0.01
        ),
        optimisation=Optimisation(learning_rate=1.2e-3, ema=0.998),
        epochs=3,
        batch_size=64,
        floor=0.79,
    )


PRESETS: dict[str, Callable[[Path], Config]] = {
    "spirals-mlp": spirals_mlp,
    "digits-cnn": digits_cnn,
    "adding-lstm": adding_lstm,
    "recall-transformer": recall_transformer,
    "adding-100-lstm": adding_100_lstm,
    "breast-cancer-mlp": breast_cancer_mlp,
    "mnist-cnn": mnist_cnn,
    "vowels-gru": vowels_gru,
    "sst2-transformer": sst2_transformer,
}


def start(family: str, data: str, out: Path) -> Config:
    """Where a command line starts from: the preset named DATA-FAMILY, if there is one, else the family's defaults."""
    if preset := PRESETS.get(f"{data}-{family}"):
        return preset(out)
    return Config(data=data, out=out, model=FAMILIES[family][1]())
