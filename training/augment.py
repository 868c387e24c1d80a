"""Random changes to a training batch that leave its answer the same (Shorten & Khoshgoftaar 2019), or mix two answers.

Each is a function of a batch and a seeded generator, so that a step's changes follow from the run's seed and the step alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from training.data.dataset import DataError, Images, Kind, Series, Tokens


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to training rows; nothing by default."""

    shift: int = 0
    """Images: move by up to this many pixels, up or down and left or right; what comes in is black."""
    crop: float = 0.0
    """Images: enlarge a random part with up to this share of each side cut away."""
    rotate: float = 0.0
    """Images: turn by up to this many degrees."""
    flip: bool = False
    """Images: mirror left and right in half of the cases."""
    mixup: float = 0.0
    """Images: average pairs of pictures and their answers, shares from Beta(m, m) (Zhang et al. 2018)."""
    cutmix: float = 0.0
    """Images: put a part of one picture into another, area from Beta(c, c), and mix the answers (Yun et al. 2019)."""
    jitter: float = 0.0
    """Series: add noise of this many standard deviations of each channel."""
    offset: float = 0.0
    """Series: move each channel of a series, all its steps alike, by a normal number of this many standard deviations: answers must
    not hang on the level of a recording (in cepstra, that is what the room and the line add; Atal 1974)."""
    time_mask: float = 0.0
    """Series: replace a stretch of up to this share of the steps by each channel's mean."""
    token_dropout: float = 0.0
    """Tokens: leave out this share of them, so that what follows moves up (word dropout; Iyyer et al. 2015). One is always left."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"augment.{field.name} must not be negative, not {getattr(self, field.name)}")
        for name in ("crop", "time_mask", "token_dropout"):
            if getattr(self, name) >= 1:
                raise ValueError(f"augment.{name} is a share below 1, not {getattr(self, name)}")

    def check(self, kind: Kind) -> None:
        """Raises DataError for what cannot be done to this kind of data."""
        suits = {
            Images: ("shift", "crop", "rotate", "flip", "mixup", "cutmix"),
            Series: ("jitter", "offset", "time_mask"),
            Tokens: ("token_dropout",),
        }
        wrong = [field.name for field in fields(self) if getattr(self, field.name) and field.name not in suits.get(type(kind), ())]
        if wrong:
            raise DataError(f"--augment.{wrong[0].replace('_', '-')} does not suit {type(kind).__name__.lower()}: leave it out")


def augment(inputs: dict[str, Tensor], kind: Kind, config: Augment, random: Generator) -> dict[str, Tensor]:
    """The batch, changed; tensors keep their shapes and dtypes."""
    match kind:
        case Images() if config.shift or config.crop or config.rotate or config.flip:
            return inputs | {kind.input: _move(inputs[kind.input], config, random)}
        case Series() if config.jitter or config.offset or config.time_mask:
            return inputs | {kind.input: _disturb(inputs[kind.input], inputs["mask"], kind, config, random)}
        case Tokens() if config.token_dropout:
            return inputs | _leave_out(inputs[kind.input], inputs["mask"], kind, config, random)
    return inputs


def _leave_out(tokens: Tensor, mask: Tensor, kind: Tokens, config: Augment, random: Generator) -> dict[str, Tensor]:
    """Tokens [N, T] without some of them, the rest moved to the front, and the mask [N, T] of what is left."""
    chance = _uniform(tokens, tuple(tokens.shape), random).masked_fill(~mask, -1.0)
    kept = mask & ((chance >= config.token_dropout) | (chance == chance.amax(1, keepdim=True)))
    front = torch.argsort(~kept, dim=1, stable=True)
    kept = kept.gather(1, front)
    return {kind.input: tokens.gather(1, front) * kept, "mask": kept}


def _move(image: Tensor, config: Augment, random: Generator) -> Tensor:
    """One affine map per picture [N, C, H, W] for shift, crop, rotation and mirroring, so that it is resampled only once."""
    n, _, height, width = image.shape

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * _uniform(image, (n,), random)

    angle = between(-config.rotate, config.rotate) * (math.pi / 180)
    side = 1 - between(0, config.crop)
    mirror = torch.where(_uniform(image, (n,), random) < 0.5, -1.0, 1.0) if config.flip else torch.ones_like(side)
    # affine_grid counts from -1 to 1 over a side; whole pixels, so that a mere shift changes no value
    steps = [torch.round(between(-config.shift - 0.5, config.shift + 0.5)).clamp(-config.shift, config.shift) for _ in "xy"]
    x = 2 * steps[0] / width + (1 - side) * between(-1, 1)
    y = 2 * steps[1] / height + (1 - side) * between(-1, 1)
    # a rotation is one only in pixels: undo the sides' ratio
    cos, sin, ratio = angle.cos(), angle.sin(), height / width
    rows = [
        torch.stack([mirror * side * cos, -side * sin * ratio, x], 1),
        torch.stack([mirror * side * sin / ratio, side * cos, y], 1),
    ]
    grid = affine_grid(torch.stack(rows, 1), list(image.shape), align_corners=False)  # [N, H, W, 2]
    return grid_sample(image, grid, align_corners=False)


def _disturb(sequence: Tensor, mask: Tensor, kind: Series, config: Augment, random: Generator) -> Tensor:
    """Noise of each step and of each series, then a stretch of steps at the mean, for [N, T, C]."""
    n, _, channels = sequence.shape
    for size, shape in ((config.jitter, sequence.shape), (config.offset, (n, 1, channels))):
        if size:
            noise = torch.from_numpy(random.standard_normal(shape, np.float32)).to(sequence.device)
            sequence = sequence + noise * mask.unsqueeze(2) * sequence.new_tensor(kind.scale) * size
    if config.time_mask:
        lengths = mask.sum(1)
        hidden = _uniform(sequence, (len(mask),), random) * config.time_mask * lengths
        start = _uniform(sequence, (len(mask),), random) * (lengths - hidden)
        at = torch.arange(mask.shape[1], device=mask.device)
        inside = (at >= start.round()[:, None]) & (at < (start + hidden).round()[:, None]) & mask
        sequence = torch.where(inside.unsqueeze(2), sequence.new_tensor(kind.mean), sequence)
    return sequence


@dataclass(frozen=True)
class Mix:
    """Row i of a batch is now `share` of itself and 1 - `share` of row `other[i]`."""

    other: Tensor
    share: float


def mix(image: Tensor, config: Augment, random: Generator) -> tuple[Tensor, Mix | None]:
    """Mixup or cutmix of a batch of pictures [N, C, H, W]; where both are asked for, one of them by the toss of a coin."""
    n, _, height, width = image.shape
    toss = random.random()
    concentration, cut = (config.cutmix, True) if config.cutmix and (not config.mixup or toss < 0.5) else (config.mixup, False)
    if not concentration:
        return image, None
    other = torch.from_numpy(random.permutation(n)).to(image.device)
    share = random.beta(concentration, concentration)
    if not cut:
        return share * image + (1 - share) * image[other], Mix(other, share)
    high, wide = (round(size * math.sqrt(1 - share)) for size in (height, width))
    top, left = (int(random.integers(0, room + 1)) for room in (height - high, width - wide))
    image = image.clone()
    image[:, :, top : top + high, left : left + wide] = image[other, :, top : top + high, left : left + wide]
    return image, Mix(other, 1 - high * wide / (height * width))


def _uniform(like: Tensor, shape: tuple[int, ...], random: Generator) -> Tensor:
    return torch.from_numpy(random.random(shape, np.float32)).to(like.device)
