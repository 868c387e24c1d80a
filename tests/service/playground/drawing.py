"""Drawing on the page's pad with a mouse, so finely that the model sees the very pixels of a picture."""

from __future__ import annotations

import numpy as np
from playwright.sync_api import Page

CELLS = 4  # of the pad, along each side of a pixel


def fill(page: Page, pixels: np.ndarray) -> None:
    """Fill as many of each pixel's 16 cells as `pixels` [8, 8] says, with a pen of one cell."""
    rows, columns = pixels.shape
    order = np.arange(CELLS**2).reshape(CELLS, CELLS)
    ink = np.kron(pixels, np.ones((CELLS, CELLS))) > np.tile(order, (rows, columns))
    _strokes(page, ink, ink.shape[1])


def trace(page: Page, pixels: np.ndarray, width: float) -> None:
    """A stroke through each row of dark pixels, all in the upper left corner, over this share of the pad's width."""
    _strokes(page, pixels > pixels.max() / 2, pixels.shape[1] / width)


def _strokes(page: Page, ink: np.ndarray, columns: float) -> None:
    """A stroke from the first to the last of each row's neighbours that are true, where `columns` make up the pad's width."""
    pad = page.get_by_role("application")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    cell = box["width"] / columns
    for row, line in enumerate(ink):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line, [0]])))
        for begin, end in edges.reshape(-1, 2):
            y = box["y"] + (row + 0.5) * cell
            page.mouse.move(box["x"] + (begin + 0.5) * cell, y)
            page.mouse.down()
            if end - begin > 1:
                page.mouse.move(box["x"] + (end - 0.5) * cell, y)
            page.mouse.up()
