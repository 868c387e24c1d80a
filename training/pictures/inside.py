"""What a network has learnt: where it draws the line, what its first kernels look for, where its attention goes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from modelrepo.tasks import Binary, Multiclass, Multilabel
from training.data.dataset import Kind, Rows, Split, Tokens
from training.models import Model
from training.pictures.canvas import BLACK, COLOURS, paper, plain, save

GRID = 200  # points along each side of a decision boundary
SCATTERED = 1000  # test rows drawn on it
KERNELS = 64
READABLE = 24  # positions whose names can still be read beside an attention map


@torch.no_grad()
def decision_boundary(path: Path, model: Model, split: Split, kind: Rows) -> None:
    """The answer at every point of the plane of two numeric columns, paler where it is less sure, and test rows on it."""
    from matplotlib.colors import to_rgb

    task, at = model.task, split.inputs["features"]  # [N, 2]
    assert not isinstance(task, Multilabel)  # draw() does not ask for this then
    known = at[~np.isnan(at).any(axis=1)]
    low, high = known.min(axis=0), known.max(axis=0)
    low, high = low - 0.08 * (high - low) - 1e-6, high + 0.08 * (high - low) + 1e-6
    x, y = np.meshgrid(np.linspace(low[0], high[0], GRID), np.linspace(low[1], high[1], GRID))
    points = torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)).to(next(model.parameters()).device)
    outputs = torch.cat([model(features=part) for part in points.split(4096)]).float().cpu()  # [GRID * GRID, outputs]
    figure = paper(6.2, 5.0)
    axes = figure.subplots()
    edges = (low[0], high[0], low[1], high[1])
    if isinstance(task, Multiclass | Binary):
        temperature = task.temperature
        if isinstance(task, Binary):
            second = (outputs / temperature).sigmoid()
            p, classes = torch.cat([1 - second, second], dim=1).numpy(), (split.targets[:, 0] > 0.5).astype(int)
        else:
            p, classes = (outputs / temperature).softmax(1).numpy(), split.targets
        colours = np.array([to_rgb(COLOURS[n % len(COLOURS)]) for n in range(len(task.labels))])  # [labels, 3]
        chance = 1 / len(task.labels)
        sure = ((p.max(1) - chance) / (1 - chance))[:, None]  # 0 where all labels are as likely, 1 where one is certain
        shade = 1 - (0.08 + 0.47 * sure) * (1 - colours[p.argmax(1)])  # over white
        axes.imshow(shade.reshape(GRID, GRID, 3), extent=edges, origin="lower", aspect="auto")
        for number, label in enumerate(task.labels):
            rows = at[:SCATTERED][classes[:SCATTERED] == number]
            axes.scatter(
                rows[:, 0], rows[:, 1], s=10, color=colours[number], edgecolors="white", linewidths=0.4, label=plain(label)
            )
        axes.legend(frameon=True, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), title="true label")
        title = "Answers over the plane, and test rows"
    else:
        values, truth = outputs[:, 0].numpy(), split.targets[:SCATTERED, 0]
        limits = {"vmin": float(min(values.min(), truth.min())), "vmax": float(max(values.max(), truth.max())), "cmap": "cividis"}
        axes.imshow(values.reshape(GRID, GRID), extent=edges, origin="lower", aspect="auto", **limits)
        dots = axes.scatter(at[:SCATTERED, 0], at[:SCATTERED, 1], s=12, c=truth, edgecolors="white", linewidths=0.4, **limits)
        figure.colorbar(dots, ax=axes, label=plain(task.targets[0]))
        title = "Predicted value over the plane, and test rows' true ones"
    axes.set(title=title, xlabel=plain(kind.columns[0].name), ylabel=plain(kind.columns[1].name))
    save(figure, path)


def kernels(path: Path, model: nn.Module) -> None:
    """The kernels of the first convolution, 64 at most: of three channels in colour, otherwise channel by channel.

    Kernels of a 1-D convolution are drawn with a row per channel.
    """
    first = next(module for module in model.modules() if isinstance(module, nn.Conv1d | nn.Conv2d))
    weights = first.weight.detach().float().cpu().numpy()[:KERNELS]  # [F, C, k] or [F, C, k, k]
    reach = float(np.abs(weights).max()) or 1.0
    colour = weights.ndim == 4 and weights.shape[1] == 3
    if colour:
        tiles = list(np.clip(0.5 + weights.transpose(0, 2, 3, 1) / (2 * reach), 0, 1))  # [k, k, 3]
    elif weights.ndim == 4:
        tiles = list(weights.reshape(-1, *weights.shape[2:])[:KERNELS])  # [k, k]
    else:
        tiles = list(weights)  # [C, k]
    across = math.ceil(math.sqrt(len(tiles)))
    down = math.ceil(len(tiles) / across)
    height, width = tiles[0].shape[:2]
    side = min(0.9, 6.4 / across)
    figure = paper(across * side * max(1, width / height) ** 0.5 + 1.6, down * side * max(1, height / width) ** 0.5 + 0.9)
    panels = figure.subplots(down, across, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, tile in zip(panels.flat, tiles, strict=False):
        shown = axes.imshow(tile, cmap="RdBu_r", vmin=-reach, vmax=reach, interpolation="nearest", aspect="auto")
    if not colour:
        figure.colorbar(shown, ax=panels, label="weight", shrink=0.7)
    layout = "x".join(map(str, weights.shape[2:]))
    channels = "1 channel" if first.in_channels == 1 else f"{first.in_channels} channels{'' if weights.ndim == 4 else ' (rows)'}"
    what = f"{first.out_channels} kernels of {layout}, {channels}"
    figure.suptitle(f"First convolution: {what}", fontsize="medium")
    save(figure, path)


@torch.no_grad()
def attention(path: Path, model: Model, split: Split, kind: Kind) -> None:
    """Where each position of one test row looks, in every layer (down) and head (across).

    `model.attention_weights(**inputs)` gives one [N, heads, T, T] per layer. The row is the longest that has readable names
    at its positions, or else the shortest.
    """
    from matplotlib.colors import PowerNorm

    inputs = split.inputs
    lengths = inputs["mask"].sum(axis=1) if "mask" in inputs else np.ones(len(split))
    readable = lengths <= READABLE
    row = int(np.where(readable, lengths, -1).argmax() if readable.any() else lengths.argmin())
    device = next(model.parameters()).device
    alone = {
        name: torch.from_numpy(np.ascontiguousarray(array)).to(device)
        for name, array in split.rows(slice(row, row + 1)).inputs.items()
    }
    weights = [layer[0].float().cpu().numpy() for layer in model.attention_weights(**alone)]  # each [heads, T, T]
    front = getattr(model, "front", None) is not None  # pooling cls puts a vector there
    names = _positions(alone, kind, weights[0].shape[-1], front)
    down, across, reach = len(weights), weights[0].shape[0], max(float(layer.max()) for layer in weights)
    side = max(2.0, 0.11 * len(names))
    long = 0.06 * max(map(len, names), default=0)
    figure = paper(across * side + 1.2 + long, down * side + 0.9 + long)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for layer, heads in enumerate(weights):
        for head, shares in enumerate(heads):
            axes = panels[layer, head]
            shown = axes.imshow(
                shares, cmap="cividis", norm=PowerNorm(0.5, 0, reach), interpolation="nearest"
            )  # small shares show too
            axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize="small")
            if names:
                axes.set_xticks(range(len(names)), names, rotation=90, fontsize="xx-small")
                axes.set_yticks(range(len(names)), names, fontsize="xx-small")
    figure.colorbar(shown, ax=panels, label="share of attention", shrink=0.8)
    figure.suptitle(f"Attention in test row {row}", fontsize="medium")
    figure.supylabel("position that looks", fontsize="small", color=BLACK)
    figure.supxlabel("position looked at", fontsize="small", color=BLACK)
    save(figure, path)


def _positions(inputs: dict[str, torch.Tensor], kind: Kind, length: int, front: bool) -> list[str]:
    """Names of the positions: tokens as text where there is a tokenizer, else numbers; none where they are too many."""
    if length > READABLE + 1:
        return []
    names = [str(number) for number in range(1, length + 1 - front)]
    if isinstance(kind, Tokens):
        tokens = inputs["tokens"][0].tolist()
        names = [str(token) for token in tokens]
        if kind.tokenizer:
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_str(kind.tokenizer)
            names = [tokenizer.decode([token], skip_special_tokens=False).strip() or "␣" for token in tokens]
    return [*["(front)"] * front, *(plain(name, 12) for name in names)]
