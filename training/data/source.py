"""How a file or a folder given as `--data` is read and split. Built-in data brings its own splits and ignores this."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Source:
    """What to read from the user's data, and how to divide it."""

    test_data: Path | None = None
    """An official test split, in the same format as the data."""
    validation_data: Path | None = None
    """An official validation split, in the same format as the data."""
    target: tuple[str, ...] = ()
    """The column to predict, or several: numbers for regression, 0 and 1 for multilabel."""
    task: Literal["auto", "classification", "multilabel", "regression"] = "auto"
    """What the targets are; auto tells it from their values."""
    drop: tuple[str, ...] = ()
    """Columns to leave out."""
    header: bool = True
    """Whether the first line names the columns; without, they are called 1, 2, 3, …"""
    text: str | None = None
    """The column that holds text; the other columns are then left out, but for the target."""
    series: str | None = None
    """The column that says which series a line belongs to: the lines of one series are its steps, in order."""
    horizon: int | None = None
    """Forecast: predict this many next steps of the target from a window of steps before them."""
    window: int = 48
    """Forecast: the longest window; at serving, any length from the horizon's up to this is taken."""
    group: str | None = None
    """Column whose rows of one value stay together in one split, such as a patient or a machine."""
    validation: float = 0.1
    """Share of the rows that choose the best epoch."""
    test: float = 0.2
    """Share of the rows that judge the model, where there is no --test-data."""
    tokenizer: Literal["bpe", "bytes"] = "bpe"
    """For text: byte pair encoding learnt from the training texts, or plain bytes."""
    vocabulary: int = 8192
    """For text: the most tokens byte pair encoding may learn."""
    lowercase: bool = False
    """For text: whether upper and lower case are the same."""
    max_length: int = 256
    """For text: tokens after this many are cut off."""
    image_size: tuple[int, int] | None = None
    """For a folder of images: the height and width they are resized to; without, all must have one size."""

    def __post_init__(self) -> None:
        if self.image_size is not None and min(self.image_size) < 1:
            raise ValueError(f"image_size must be at least 1 1, not {' '.join(map(str, self.image_size))}")
        for name in ("validation", "test"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if self.validation + self.test >= 1:
            raise ValueError(f"validation ({self.validation}) and test ({self.test}) together leave nothing to train on")
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon must be at least 1, not {self.horizon}")
        if self.window < 2:
            raise ValueError(f"window must be at least 2, not {self.window}")
        for name, least in (("vocabulary", 300), ("max_length", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
