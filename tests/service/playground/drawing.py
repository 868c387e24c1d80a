"""Drawing on the page's pad with a mouse, so finely that the model sees the very pixels of a picture."""

from __future__ import annotations

import numpy as np
from playwright.sync_api import Page

CELLS = 4  # of the pad, along each side of a pixel


def draw(page: Page, pixels: np.ndarray, size: float = 1.0) -> None:
    """Fill as many of each pixel's 16 cells as `pixels` [8, 8] says; at another size, strokes through the same places."""
    rows, columns = pixels.shape
    order = np.arange(CELLS**2).reshape(CELLS, CELLS)
    ink = np.kron(pixels, np.ones((CELLS, CELLS))) > np.tile(order, (rows, columns))
    pad = page.get_by_role("application")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    cell = box["width"] / (columns * CELLS)
    for row, line in enumerate(ink):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line, [0]])))
        for begin, end in edges.reshape(-1, 2):
            y = box["y"] + (row + 0.5) * cell * size
            page.mouse.move(box["x"] + (begin + 0.5) * cell * size, y)
            page.mouse.down()
            if end - begin > 1:
                page.mouse.move(box["x"] + (end - 0.5) * cell * size, y)
            page.mouse.up()
