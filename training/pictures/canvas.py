"""What all pictures share: paper, colours that colour-blind readers can tell apart, plain text, and how a file is written.

Figures are made without pyplot, which would keep each of them in a global list.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from training import atomic

if TYPE_CHECKING:  # matplotlib takes most of a second, and training starts without it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito 2008, in the order of best contrast on white.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, YELLOW = COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#000000",
    "#F0E442",
)
GREY = "#7F7F7F"
DPI = 110


def paper(width: float = 6.4, height: float = 4.2) -> Figure:
    """An empty figure of that many inches, which lays itself out."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def tidy(axes: Axes, *, grid: bool = True) -> None:
    """No box around the plot, and a faint grid behind it."""
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(True, color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)


def plain(text: str, longest: int = 24) -> str:
    """Text from the data as it can stand on a picture: on one line, not too long, and no mathematics between dollars."""
    line = " ".join(text.split())
    line = line if len(line) <= longest else f"{line[: longest - 1]}…"
    return line.replace("$", r"\$")


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG. Raises OSError."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a script that the font lacks shows as boxes
        figure.savefig(content, format="png")
    atomic.write(path, content.getvalue())
