// Strokes of a pen to the pixels that a model was trained on.
//
// scikit-learn's digits (UCI, optical recognition of handwritten digits) are bitmaps of 32×32, size-normalised and centred, of which
// each block of 4×4 became a number: how many of its cells hold ink, 0 to 16. MNIST's are 28×28 with grey levels to 255, the digit
// fitted into 20×20 and its centre of mass put into the middle. Both are made here from the same strokes: ink on a raster of 4 cells
// for each pixel, counted.

const CELLS = 4; // of the raster, along each side of a pixel

export class Drawing {
  /** `levels` is what a pixel full of ink holds; `mnist` says how pictures are fitted. */
  constructor({ height, width, levels, mnist }) {
    Object.assign(this, { height, width, levels, mnist });
    this.rows = height * CELLS;
    this.columns = width * CELLS;
    this.clear();
  }

  clear() {
    this.strokes = [];
    this.example = null;
  }

  /** Shows pixels that were never drawn: rows of numbers from 0 to `levels`. */
  show(pixels) {
    this.clear();
    this.example = pixels;
  }

  get empty() {
    return !this.example && !this.strokes.length;
  }

  /** Puts the pen down at a place of the raster. */
  begin(x, y, pen) {
    if (this.example) this.clear();
    this.strokes.push({ pen, points: [[x, y]] });
  }

  /** Draws on to another place. */
  go(x, y) {
    this.strokes.at(-1).points.push([x, y]);
  }

  undo() {
    this.strokes.pop();
  }

  /** Pixels [height][width] from 0 to `levels`: fitted as the data was, if asked to, then turned by degrees and shifted by pixels. */
  pixels({ fit = false, turn = 0, right = 0, down = 0 } = {}) {
    const moved = turned(this.columns / 2, this.rows / 2, turn, right * CELLS, down * CELLS);
    if (this.example) return turn || right || down ? resampled(this.example, turn, right, down) : this.example;
    const place = fit ? this.fitting() : (x, y) => [x, y];
    let ink = this.raster((x, y) => moved(...place(x, y)));
    if (fit && this.mnist) {
      const [dx, dy] = this.offCentre(this.raster(place));
      ink = this.raster((x, y) => { const [px, py] = place(x, y); return moved(px - dx, py - dy); });
    }
    return this.counted(ink);
  }

  /** Which cells hold ink [rows · columns], after moving every point of every stroke. */
  raster(move = (x, y) => [x, y]) {
    const ink = new Uint8Array(this.rows * this.columns);
    for (const { pen, points } of this.strokes) {
      const radius = pen / 2;
      let [ax, ay] = move(...points[0]);
      for (const point of points.length > 1 ? points.slice(1) : points) {
        const [bx, by] = move(...point);
        const length = (bx - ax) ** 2 + (by - ay) ** 2;
        const [top, bottom] = [Math.min(ay, by) - radius, Math.max(ay, by) + radius];
        const [left, right] = [Math.min(ax, bx) - radius, Math.max(ax, bx) + radius];
        for (let r = Math.max(0, Math.floor(top)); r < Math.min(this.rows, bottom); r++) {
          for (let c = Math.max(0, Math.floor(left)); c < Math.min(this.columns, right); c++) {
            const [x, y] = [c + 0.5, r + 0.5];
            const along = length ? Math.min(1, Math.max(0, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length)) : 0;
            const off = (x - ax - along * (bx - ax)) ** 2 + (y - ay - along * (by - ay)) ** 2;
            if (off <= radius * radius + 1e-9) ink[r * this.columns + c] = 1;
          }
        }
        [ax, ay] = [bx, by];
      }
    }
    return ink;
  }

  /** Ink in each block of cells, as levels. */
  counted(ink) {
    return Array.from({ length: this.height }, (_, r) =>
      Array.from({ length: this.width }, (_, c) => {
        let count = 0;
        for (let y = r * CELLS; y < (r + 1) * CELLS; y++) for (let x = c * CELLS; x < (c + 1) * CELLS; x++) count += ink[y * this.columns + x];
        return Math.round((count * this.levels) / CELLS ** 2);
      }),
    );
  }

  /** The move that makes the drawing fill its box, in the middle. Pens keep their width. */
  fitting() {
    const all = this.strokes.flatMap(({ points }) => points);
    if (!all.length) return (x, y) => [x, y];
    const pen = Math.max(...this.strokes.map((stroke) => stroke.pen));
    const [xs, ys] = [all.map(([x]) => x), all.map(([, y]) => y)];
    const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const share = this.mnist ? 20 / 28 : 1;
    const room = [this.columns * share - pen, this.rows * share - pen];
    const scale = Math.min(room[0] / (right - left || 1e-9), room[1] / (bottom - top || 1e-9));
    const kept = right - left < pen && bottom - top < pen ? 1 : scale; // a dot stays a dot
    return (x, y) => [this.columns / 2 + (x - (left + right) / 2) * kept, this.rows / 2 + (y - (top + bottom) / 2) * kept];
  }

  /** How far the ink's centre of mass is from the middle. */
  offCentre(ink) {
    let [count, x, y] = [0, 0, 0];
    for (let i = 0; i < ink.length; i++) {
      if (!ink[i]) continue;
      count++;
      x += (i % this.columns) + 0.5;
      y += Math.floor(i / this.columns) + 0.5;
    }
    return count ? [x / count - this.columns / 2, y / count - this.rows / 2] : [0, 0];
  }
}

/** The move that turns about a centre by degrees, clockwise, and then shifts. */
function turned(cx, cy, degrees, right, down) {
  const [cos, sin] = [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)];
  return (x, y) => [cx + (x - cx) * cos - (y - cy) * sin + right, cy + (x - cx) * sin + (y - cy) * cos + down];
}

/** Rows of numbers turned by degrees, clockwise, and shifted by pixels; between pixels linearly, outside 0. */
export function resampled(rows, degrees, right, down) {
  const [height, width] = [rows.length, rows[0].length];
  const [cx, cy] = [(width - 1) / 2, (height - 1) / 2];
  const back = turned(cx, cy, -degrees, 0, 0);
  const value = (r, c) => rows[r]?.[c] ?? 0;
  return rows.map((row, r) =>
    row.map((_, c) => {
      const [x, y] = back(c - right, r - down);
      const [x0, y0] = [Math.floor(x), Math.floor(y)];
      const [fx, fy] = [x - x0, y - y0];
      return (value(y0, x0) * (1 - fx) + value(y0, x0 + 1) * fx) * (1 - fy) + (value(y0 + 1, x0) * (1 - fx) + value(y0 + 1, x0 + 1) * fx) * fy;
    }),
  );
}
