// A classifier of points: its decision boundary from one batched request, and points that anyone may add.

import { ApiError, predict } from "./api.js";
import { infer } from "./binary.js";
import { Bars } from "./charts.js";
import { classColours, css, onTheme, rgb, themed } from "./colours.js";
import { step, valueInputs } from "./describe.js";
import { button, choice, h, panel, perFrame, say, tick, trouble } from "./dom.js";
import { Latest } from "./latest.js";
import { bytes, clamp, milliseconds, percent, random, short, softmax, ticks } from "./numbers.js";
import { remember } from "./recent.js";

const SIZE = 640; // of the canvas, in its own pixels
const MARGIN = 46; // for the numbers beside it
const SPREAD = 2.7; // standard deviations shown to either side
const SHAPES = ["circle", "square", "triangle", "diamond"];

export function show(container, card, signal) {
  const spec = valueInputs(card)[0];
  const { labels, output, temperature } = card.task;
  const colours = classColours(labels).map(rgb);
  const columns = step(card, "columns")?.columns ?? ["x", "y"].map((name) => ({ name, ...around(card.observed[spec.name]) }));
  const [xs, ys] = columns.map(({ mean, scale }) => ({ low: mean - SPREAD * scale, high: mean + SPREAD * scale }));

  let side = 60; // points of the grid along each axis
  let sharp = false; // whether classes are shown without their doubt
  let grid = null; // {shares: Float32Array [labels, side²]} and how it was fetched
  let points = []; // {x, y, label, share}
  let cursor = { x: (xs.low + xs.high) / 2, y: (ys.low + ys.high) / 2 };
  let pointing = false;
  let surface = null;

  const canvas = h("canvas", {
    class: "plane", width: SIZE, height: SIZE, tabindex: 0, role: "application",
    "aria-label": "The plane of points. Arrow keys move the cross, Enter adds a point there, Delete removes the last.",
  });
  const problem = h("div");
  const sweep = h("p", { class: "note", role: "status" }, "Asking for the grid …");
  const where = h("p", { class: "where" });
  const bars = new Bars("Probabilities at the cross", { colours: colours.map((colour) => css(colour)) });
  const table = h("tbody");
  const empty = h("p", { class: "note" }, "No point yet: click into the plane.");
  const list = h("div", { class: "scroll points", tabindex: 0, role: "region", "aria-label": "Points" }, h("table", {}, h("thead", {}, h("tr", {}, [columns[0].name, columns[1].name, "answer", "probability"].map((head) => h("th", { scope: "col" }, head)))), table));

  const fail = (error) => {
    if (!(error instanceof ApiError)) throw error;
    problem.replaceChildren(trouble(error));
  };

  /** All points of the grid in one request, as raw numbers both ways. */
  const ask = async () => {
    const data = new Float32Array(side * side * 2);
    for (let r = 0, at = 0; r < side; r++) {
      for (let c = 0; c < side; c++) {
        data[at++] = xs.low + ((c + 0.5) / side) * (xs.high - xs.low);
        data[at++] = ys.high - ((r + 0.5) / side) * (ys.high - ys.low);
      }
    }
    const began = performance.now();
    try {
      const answer = await infer(card, { name: spec.name, shape: [side * side, 2], datatype: "FP32", data }, output, { signal });
      const took = performance.now() - began;
      grid = { side, shares: shares(answer.values, side * side, labels.length, temperature) };
      sweep.textContent = `${(side * side).toLocaleString("en")} points in one request: ${milliseconds(took)}, ${milliseconds((took / side) / side)} a point, ${bytes(answer.sent)} there and ${bytes(answer.received)} back.`;
      problem.replaceChildren();
      paintSurface();
      paint();
    } catch (error) {
      if (!signal.aborted) fail(error);
    }
  };

  /** The colour of every pixel: the likeliest class, paler where the model doubts. */
  const paintSurface = () => {
    if (!grid) return;
    const inner = SIZE - MARGIN;
    const image = new ImageData(inner, inner);
    const paper = themed("--surface");
    const ink = themed("--text");
    const best = new Uint8Array(inner * inner);
    const count = labels.length;
    const n = grid.side;
    const found = new Float32Array(count);
    for (let py = 0; py < inner; py++) {
      const gy = clamp((py / inner) * n - 0.5, 0, n - 1.001);
      const y0 = Math.floor(gy), fy = gy - y0;
      for (let px = 0; px < inner; px++) {
        const gx = clamp((px / inner) * n - 0.5, 0, n - 1.001);
        const x0 = Math.floor(gx), fx = gx - x0;
        let top = 0;
        for (let k = 0; k < count; k++) {
          const at = k * n * n + y0 * n + x0;
          const upper = grid.shares[at] * (1 - fx) + grid.shares[at + 1] * fx;
          const lower = grid.shares[at + n] * (1 - fx) + grid.shares[at + n + 1] * fx;
          found[k] = upper * (1 - fy) + lower * fy;
          if (found[k] > found[top]) top = k;
        }
        const i = py * inner + px;
        best[i] = top;
        const sure = sharp ? 0.55 : 0.68 * clamp((found[top] - 1 / count) / (1 - 1 / count), 0, 1) ** 0.8;
        for (let channel = 0; channel < 3; channel++) image.data[i * 4 + channel] = paper[channel] + (colours[top][channel] - paper[channel]) * sure;
        image.data[i * 4 + 3] = 255;
      }
    }
    for (let i = 0; i < best.length - inner; i++) {
      if ((i + 1) % inner && (best[i] !== best[i + 1] || best[i] !== best[i + inner])) image.data.set(ink, i * 4);
    }
    surface = image;
  };

  const toX = (x) => MARGIN + ((x - xs.low) / (xs.high - xs.low)) * (SIZE - MARGIN);
  const toY = (y) => ((ys.high - y) / (ys.high - ys.low)) * (SIZE - MARGIN);

  const paint = () => {
    const context = canvas.getContext("2d");
    const quiet = css(themed("--quiet"));
    context.clearRect(0, 0, SIZE, SIZE);
    if (surface) context.putImageData(surface, MARGIN, 0);
    context.font = "17px system-ui, sans-serif";
    context.fillStyle = quiet;
    context.textAlign = "center";
    for (const x of ticks(xs.low, xs.high, 6)) if (toX(x) > MARGIN + 8 && toX(x) < SIZE - 16) context.fillText(short(x), toX(x), SIZE - 10);
    context.textAlign = "right";
    for (const y of ticks(ys.low, ys.high, 6)) if (toY(y) < SIZE - MARGIN - 8 && toY(y) > 12) context.fillText(short(y), MARGIN - 6, toY(y) + 6);
    for (const point of points) mark(context, point);
    if (pointing || document.activeElement === canvas) {
      context.strokeStyle = css(themed("--text"));
      context.lineWidth = 1.5;
      context.setLineDash([5, 5]);
      context.beginPath();
      context.moveTo(toX(cursor.x), 0);
      context.lineTo(toX(cursor.x), SIZE - MARGIN);
      context.moveTo(MARGIN, toY(cursor.y));
      context.lineTo(SIZE, toY(cursor.y));
      context.stroke();
      context.setLineDash([]);
    }
  };

  const mark = (context, { x, y, label }) => {
    const k = labels.indexOf(label);
    const [cx, cy, r] = [toX(x), toY(y), 9];
    context.beginPath();
    const shape = SHAPES[k % SHAPES.length];
    if (k < 0 || shape === "circle") context.arc(cx, cy, k < 0 ? 4 : r - 1, 0, 7);
    else if (shape === "square") context.rect(cx - r + 1, cy - r + 1, 2 * r - 2, 2 * r - 2);
    else {
      const corners = shape === "triangle" ? [[0, -r], [r, r - 1], [-r, r - 1]] : [[0, -r - 1], [r + 1, 0], [0, r + 1], [-r - 1, 0]];
      corners.forEach(([dx, dy], i) => (i ? context.lineTo(cx + dx, cy + dy) : context.moveTo(cx + dx, cy + dy)));
      context.closePath();
    }
    context.fillStyle = k < 0 ? "#888" : css(colours[k]);
    context.fill();
    context.lineWidth = 2.5;
    context.strokeStyle = css(themed("--surface"));
    context.stroke();
    context.lineWidth = 1;
    context.strokeStyle = css(themed("--text"));
    context.stroke();
  };

  const hover = new Latest(
    ({ x, y }) => predict(card, [[x, y]], { signal }),
    (answer, { x, y }) => {
      remember(card, [x, y]);
      const [prediction] = answer.predictions;
      const byLabel = Object.fromEntries(prediction.probabilities.map((one) => [one.label, one.probability]));
      bars.set(labels.map((label) => [label, byLabel[label]]));
      problem.replaceChildren();
    },
    (error) => { if (!signal.aborted) fail(error); },
  );

  const point = perFrame(() => {
    where.textContent = `${columns[0].name} = ${cursor.x.toFixed(3)}, ${columns[1].name} = ${cursor.y.toFixed(3)}`;
    hover.put({ x: cursor.x, y: cursor.y });
    paint();
  });

  /** Adds points and asks about all of them in one request. */
  const add = async (added) => {
    points.push(...added);
    paint();
    try {
      const { predictions } = await predict(card, added.map(({ x, y }) => [x, y]), { signal });
      added.forEach((one, i) => Object.assign(one, { label: predictions[i].label, share: predictions[i].probabilities[0].probability }));
      if (added.length === 1) say(`${added[0].label}, ${percent(added[0].share)}`);
    } catch (error) {
      points = points.filter((one) => !added.includes(one));
      if (!signal.aborted) fail(error);
    }
    fill();
    paint();
  };

  const fill = () => {
    empty.hidden = points.length > 0;
    list.hidden = points.length === 0;
    table.replaceChildren(...points.slice(-100).reverse().map(({ x, y, label, share }) => h("tr", {}, h("td", {}, x.toFixed(3)), h("td", {}, y.toFixed(3)), h("td", {}, label ?? "…"), h("td", {}, share === undefined ? "…" : percent(share)))));
  };

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const px = clamp(((event.clientX - box.left) / box.width) * SIZE, MARGIN, SIZE);
    const py = clamp(((event.clientY - box.top) / box.height) * SIZE, 0, SIZE - MARGIN);
    cursor = { x: xs.low + ((px - MARGIN) / (SIZE - MARGIN)) * (xs.high - xs.low), y: ys.high - (py / (SIZE - MARGIN)) * (ys.high - ys.low) };
  };
  canvas.addEventListener("pointermove", (event) => { pointing = true; at(event); point(); });
  canvas.addEventListener("pointerleave", () => { pointing = false; paint(); });
  canvas.addEventListener("click", (event) => { at(event); point(); add([{ ...cursor }]); });
  canvas.addEventListener("focus", paint);
  canvas.addEventListener("blur", paint);
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    const stride = event.shiftKey ? 10 : 1;
    if (move) {
      cursor = {
        x: clamp(cursor.x + (move[0] * stride * (xs.high - xs.low)) / 100, xs.low, xs.high),
        y: clamp(cursor.y + (move[1] * stride * (ys.high - ys.low)) / 100, ys.low, ys.high),
      };
      point();
    } else if (event.key === "Enter" || event.key === " ") add([{ ...cursor }]);
    else if (event.key === "Delete" || event.key === "Backspace") clear(points.slice(0, -1));
    else return;
    event.preventDefault();
  });

  const clear = (left) => {
    points = left;
    fill();
    paint();
  };
  let seed = 1;
  const scatter = () => {
    const draw = random(seed++);
    add(Array.from({ length: 200 }, () => ({ x: xs.low + draw() * (xs.high - xs.low), y: ys.low + draw() * (ys.high - ys.low) })));
  };
  onTheme(() => { paintSurface(); paint(); }, signal);

  container.append(
    problem,
    h("div", { class: "split" },
      panel("What it decides where", null,
        canvas, sweep,
        h("div", { class: "controls" },
          choice("Grid", { "30²": 30, "60²": 60, "64²": 64 }, side, (value) => { side = value; ask(); }),
          tick("Show doubt", !sharp, (doubt) => { sharp = !doubt; paintSurface(); paint(); })),
      ),
      h("div", {},
        panel("At the cross", null, where, bars.element),
        panel("Points", "Each is classified by the model. Its shape tells the class, too.", empty, list,
          h("div", { class: "row" }, button("200 at random", scatter), button("Remove all", () => clear([]))),
        ),
      ),
    ),
  );
  fill();
  point();
  return ask();
}

/** Mean and scale that make up for unknown ones, from the least and greatest golden value. */
function around([low, high]) {
  return { mean: (low + high) / 2, scale: (high - low) / 3 || 1 };
}

/** Probabilities [labels, rows] from logits [rows, columns]. */
function shares(logits, rows, labels, temperature) {
  const found = new Float32Array(labels * rows);
  for (let row = 0; row < rows; row++) {
    const own = logits.length === rows ? [0, logits[row]] : logits.subarray(row * labels, (row + 1) * labels);
    softmax(own, temperature).forEach((share, k) => { found[k * rows + row] = share; });
  }
  return found;
}
