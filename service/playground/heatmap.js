// Numbers in two dimensions as colours, one pixel of a canvas each; the style sheet makes it large.

import { css, signed, viridis } from "./colours.js";
import { h } from "./dom.js";
import { short } from "./numbers.js";

/** Smallest and largest of nested numbers. */
export function extent(data, found = [Infinity, -Infinity]) {
  if (typeof data === "number") {
    if (data < found[0]) found[0] = data;
    if (data > found[1]) found[1] = data;
  } else for (const each of data) extent(each, found);
  return found;
}

/** [low, high] with zero in the middle. */
export function symmetric([low, high]) {
  const most = Math.max(Math.abs(low), Math.abs(high)) || 1;
  return [-most, most];
}

/**
 * Rows of numbers. `range` is what the ends of the colours mean; `scale` viridis, or signed for numbers around zero.
 * `onpoint(row, column, value)` is told where the pointer is, `onpoint(null)` when it leaves.
 */
export class HeatMap {
  constructor(label, { scale = "viridis", onpoint, kind = "" } = {}) {
    this.element = h("canvas", { class: `heatmap ${kind}`, role: "img", "aria-label": label, width: 1, height: 1 });
    this.scale = scale === "signed" ? signed : viridis;
    if (onpoint) {
      this.element.addEventListener("pointermove", (event) => {
        const { left, top, width, height } = this.element.getBoundingClientRect();
        const row = Math.floor(((event.clientY - top) / height) * this.rows.length);
        const column = Math.floor(((event.clientX - left) / width) * this.rows[0].length);
        const value = this.rows[row]?.[column];
        if (value !== undefined) onpoint(row, column, value);
      });
      this.element.addEventListener("pointerleave", () => onpoint(null));
    }
  }

  draw(rows, range = extent(rows)) {
    this.rows = rows;
    const [height, width] = [rows.length, rows[0].length];
    if (this.element.width !== width) this.element.width = width;
    if (this.element.height !== height) this.element.height = height;
    const context = this.element.getContext("2d");
    const image = context.createImageData(width, height);
    const [low, high] = range;
    for (let r = 0, at = 0; r < height; r++) {
      for (let c = 0; c < width; c++, at += 4) {
        const colour = this.scale(high > low ? (rows[r][c] - low) / (high - low) : 0.5);
        image.data.set(colour, at);
        image.data[at + 3] = 255;
      }
    }
    context.putImageData(image, 0, 0);
  }
}

/** What the colours of a map mean: its ends, and the band between them. */
export function legend([low, high], scale = "viridis") {
  const colour = scale === "signed" ? signed : viridis;
  const stops = Array.from({ length: 9 }, (_, i) => css(colour(i / 8)));
  return h(
    "span",
    { class: "scale" },
    h("span", {}, short(low)),
    h("i", { style: { background: `linear-gradient(90deg, ${stops.join(",")})` } }),
    h("span", {}, short(high)),
  );
}
