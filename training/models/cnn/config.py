"""Which convolutional network, and how large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.models import checks
from training.models.layers import Activation, Init, Norm

Architecture = Literal["lenet5", "alexnet", "vgg", "googlenet", "resnet", "densenet"]

# Channels of each stage and blocks per stage, for small pictures. Checkpoints made without own figures rely on these.
DEFAULTS: dict[Architecture, tuple[tuple[int, ...], int]] = {
    "lenet5": ((6, 16), 1),
    "alexnet": ((32, 64, 128, 128, 64), 1),
    "vgg": ((32, 64, 128), 2),
    "googlenet": ((64, 128), 2),
    "resnet": ((32, 64), 1),
    "densenet": ((24, 36, 42), 4),
}


@dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """Shape of a convolutional network."""

    architecture: Architecture = "resnet"
    """Which of the classic networks, each scaled to small pictures."""
    channels: tuple[int, ...] | None = None
    """Channels of each stage (lenet5, alexnet: of each convolution; densenet: with which a stage begins); None: its own."""
    blocks: int | None = None
    """vgg: convolutions, others: blocks or layers, per stage; None: the architecture's own. lenet5 and alexnet have none."""
    growth: int = 12
    """densenet: channels that each layer adds."""
    bottleneck: bool = False
    """resnet, densenet: 1x1 convolutions around the 3x3, which then works on fewer channels."""
    activation: Activation = "relu"
    """What follows each convolution."""
    norm: Norm = "batch"
    """Normalisation of each convolution's channels; the oldest three were published with none."""
    dropout: float = 0.0
    """Share of the features zeroed in training before the last layer."""
    init: Init = "auto"
    """How weights are drawn."""

    def __post_init__(self) -> None:
        checks.one_of("architecture", self.architecture, Architecture)
        checks.one_of("activation", self.activation, Activation)
        checks.one_of("norm", self.norm, Norm)
        checks.one_of("init", self.init, Init)
        checks.share("dropout", self.dropout)
        checks.at_least("growth", self.growth, 1)
        checks.at_least("blocks", self.depth, 1)
        wanted = len(DEFAULTS[self.architecture][0])
        if self.architecture in ("lenet5", "alexnet") and len(self.widths) != wanted:
            raise ValueError(f"channels must be {wanted} numbers for {self.architecture}, or None, not {list(self.widths)}")
        if not self.widths:
            raise ValueError(f"channels must name at least one stage, not (): {DEFAULTS[self.architecture][0]} for example")
        # Blocks divide their channels among branches, or narrow them.
        step = 16 if self.architecture == "googlenet" else 4 if self.architecture == "resnet" and self.bottleneck else 1
        for width in self.widths:
            checks.at_least("channels", width, 1)
            if width % step:
                blocks = "inception blocks" if self.architecture == "googlenet" else "bottlenecks"
                raise ValueError(f"channels must be multiples of {step} for {blocks}, not {width}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return DEFAULTS[self.architecture][0] if self.channels is None else self.channels

    @property
    def depth(self) -> int:
        """Blocks per stage."""
        return DEFAULTS[self.architecture][1] if self.blocks is None else self.blocks
