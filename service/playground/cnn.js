// A classifier of small pictures: draw one, and watch what it sees, what its filters answer and what it decides.

import { ApiError, predict } from "./api.js";
import { Bars, LineChart, seriesColour } from "./charts.js";
import { css, onTheme, themed } from "./colours.js";
import { convolution } from "./convolution.js";
import { rowShape, valueInputs } from "./describe.js";
import { button, choice, h, panel, perFrame, say, slider, tick, trouble } from "./dom.js";
import { Drawing, resampled } from "./drawing.js";
import { HeatMap, extent } from "./heatmap.js";
import { kernels, lookInside, maps, ofKind } from "./internals.js";
import { Latest } from "./latest.js";
import { clamp, percent, short } from "./numbers.js";
import { remember } from "./recent.js";

const PAD = 512; // pixels of the canvas
const PAUSE = 150; // ms after a stroke, before what takes longer is asked for
const TURNS = Array.from({ length: 37 }, (_, i) => i * 5 - 90); // degrees of the curve

export function show(container, card, signal) {
  const spec = valueInputs(card)[0];
  const [, height, width] = rowShape(spec);
  const seen = card.observed[spec.name][1];
  const levels = card.takes === "picture" ? 255 : ([1, 16, 255].find((most) => most >= seen) ?? seen); // golden rows may lack the whitest
  const drawing = new Drawing({ height, width, levels, mnist: height >= 20 });
  const pens = { fine: 1, medium: (drawing.rows * 3.6) / 32, broad: (drawing.rows * 5) / 32 };
  let pen = pens.medium;
  let fit = true;
  let move = { turn: 0, right: 0, down: 0 };
  let cell = { x: drawing.columns / 2, y: drawing.rows / 2, down: false };

  const pad = h("canvas", {
    class: "pad", width: PAD, height: Math.round((PAD * height) / width), tabindex: 0, role: "application",
    "aria-label": "Drawing pad. Arrow keys move the pen, Space puts it down and lifts it, Delete takes back the last stroke.",
  });
  const problem = h("div");
  const bars = new Bars("Probabilities");
  const verdict = h("p", { class: "verdict", role: "status" }, "–");
  const sees = new HeatMap("What the model sees", { kind: "sees" });
  const figures = h("div", { class: "pixels", "aria-hidden": "true" });
  if (width <= 12) sees.element.classList.add("numbered");
  const inside = h("div", { class: "body" });
  const noInside = h("div");
  const equivariance = h("div", { class: "layer" });
  const curve = new LineChart("Probability as the picture turns", { height: 210 });

  const fail = (error) => {
    if (signal.aborted) return;
    if (!(error instanceof ApiError)) throw error;
    problem.replaceChildren(trouble(error));
  };
  const asked = new Latest(
    (pixels) => predict(card, [[pixels]], { signal }),
    ({ predictions: [prediction] }, pixels) => {
      problem.replaceChildren();
      remember(card, [pixels]);
      const shares = Object.fromEntries(prediction.probabilities.map((one) => [one.label, one.probability]));
      bars.set(card.task.labels.map((label) => [label, shares[label]]));
      verdict.textContent = prediction.label;
    },
    fail,
  );
  const turning = new Latest(
    () => predict(card, TURNS.map((turn) => [drawing.pixels({ fit, ...move, turn })]), { signal }),
    ({ predictions }) => {
      const shares = predictions.map((one) => Object.fromEntries(one.probabilities.map((each) => [each.label, each.probability])));
      const most = card.task.labels.map((label) => [label, Math.max(...shares.map((one) => one[label]))]).sort((a, b) => b[1] - a[1]).slice(0, 4);
      curve.draw({
        series: most.map(([label], i) => ({ name: label, colour: seriesColour(i), dash: i % 2 === 1, points: TURNS.map((degrees, j) => [degrees, shares[j][label]]) })),
        x: { min: -90, max: 90, format: (degrees) => `${degrees}°` }, y: { min: 0, max: 1, format: (share) => percent(share, 0) },
        marks: [{ at: move.turn, label: `${move.turn}°` }],
      });
    },
    fail,
  );
  let shown = null; // the internals of the last picture
  let layer = 0;
  const inLayer = h("div", { class: "body" });
  /** The maps of the chosen convolution, and its kernels. */
  const showLayer = () => {
    const layers = mapsOf(shown);
    if (!inside.hasChildNodes()) {
      const names = Object.fromEntries(layers.map((each, i) => [String(each.layer + 1), i]));
      inside.append(panel("Feature maps and kernels", "What every filter of a convolution answers: bright is much. Draw on, and they follow. Kernels are the weights that slide: orange adds, blue subtracts.", choice("Convolution", names, layer, (chosen) => { layer = chosen; showLayer(); }), inLayer));
    }
    const own = ofKind(shown, "kernels").filter((each) => each.layer === layers[layer].layer);
    inLayer.replaceChildren(maps(layers[layer]), ...own.map(kernels));
  };
  const looking = new Latest(
    async ({ pixels, plain }) => [await lookInside(card, [pixels], noInside, signal), plain && (await lookInside(card, [plain], noInside, signal))],
    ([now, before]) => {
      if (!now) return;
      shown = now;
      showLayer();
      const layers = mapsOf(now);
      equivariance.replaceChildren(...(before ? compare(layers, mapsOf(before), move, width) : [h("p", { class: "note" }, "Shift or turn the drawing to compare the maps of the moved picture with the moved maps of the picture.")]));
    },
    fail,
  );

  /** What is drawn, what the model sees, and what it says; after whole strokes also what takes longer. */
  const update = () => {
    paint();
    const pixels = drawing.pixels({ fit, ...move });
    sees.draw(pixels, [0, levels]);
    if (width <= 12) figures.replaceChildren(...pixels.flat().map((value) => h("span", { class: value > levels * 0.6 ? "bright" : "" }, value ? short(Math.round(value)) : "")));
    if (drawing.empty) {
      bars.clear();
      verdict.textContent = "–";
      return;
    }
    asked.put(pixels);
    if (!whole) return;
    whole = false;
    turning.put();
    const moved = move.turn || move.right || move.down;
    if (card.internals) looking.put({ pixels, plain: moved ? drawing.pixels({ fit }) : null });
  };

  let whole = false;
  const soon = perFrame(update);
  const changed = (all = true) => {
    whole ||= all;
    soon();
  };

  const paint = () => {
    const context = pad.getContext("2d");
    const scale = PAD / drawing.columns;
    context.clearRect(0, 0, pad.width, pad.height);
    const ink = css(themed("--text"));
    context.fillStyle = ink;
    if (drawing.example) {
      drawing.example.forEach((row, r) => row.forEach((value, c) => {
        context.globalAlpha = clamp(value / levels, 0, 1);
        context.fillRect(c * scale * 4, r * scale * 4, scale * 4 + 0.5, scale * 4 + 0.5);
      }));
      context.globalAlpha = 1;
    } else {
      drawing.raster().forEach((on, i) => { if (on) context.fillRect((i % drawing.columns) * scale, Math.floor(i / drawing.columns) * scale, scale + 0.5, scale + 0.5); });
    }
    context.strokeStyle = css(themed("--line"));
    context.lineWidth = 1;
    context.beginPath();
    for (let c = 4; c < drawing.columns; c += 4) { context.moveTo(c * scale, 0); context.lineTo(c * scale, pad.height); }
    for (let r = 4; r < drawing.rows; r += 4) { context.moveTo(0, r * scale); context.lineTo(PAD, r * scale); }
    context.stroke();
    if (document.activeElement === pad && pad.matches(":focus-visible")) {
      context.strokeStyle = css(themed("--accent"));
      context.lineWidth = cell.down ? 5 : 2.5;
      context.beginPath();
      context.arc(cell.x * scale, cell.y * scale, Math.max(8, (pen / 2) * scale), 0, 7);
      context.stroke();
    }
  };

  const at = (event) => {
    const box = pad.getBoundingClientRect();
    return [((event.clientX - box.left - pad.clientLeft) / pad.clientWidth) * drawing.columns, ((event.clientY - box.top - pad.clientTop) / pad.clientHeight) * drawing.rows];
  };
  let drawn = null; // the pointer that draws
  let rest = 0; // until a stroke was the last one
  pad.addEventListener("pointerdown", (event) => {
    if (drawn !== null || event.button) return;
    clearTimeout(rest);
    drawn = event.pointerId;
    pad.setPointerCapture(drawn);
    drawing.begin(...at(event), pen);
    changed(false);
  });
  pad.addEventListener("pointermove", (event) => {
    if (event.pointerId !== drawn) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) drawing.go(...at(each));
    changed(false);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    pad.addEventListener(name, (event) => {
      if (event.pointerId !== drawn) return;
      drawn = null;
      rest = setTimeout(() => changed(), PAUSE);
    });
  }
  pad.addEventListener("focus", paint);
  pad.addEventListener("blur", () => { cell.down = false; paint(); });
  pad.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (direction) {
      const stride = event.shiftKey ? 4 : 1;
      cell.x = clamp(cell.x + direction[0] * stride, 0.5, drawing.columns - 0.5);
      cell.y = clamp(cell.y + direction[1] * stride, 0.5, drawing.rows - 0.5);
      if (cell.down) drawing.go(cell.x, cell.y);
    } else if (event.key === " ") {
      cell.down = !cell.down;
      if (cell.down) drawing.begin(cell.x, cell.y, pen);
    } else if (event.key === "Delete" || event.key === "Backspace") drawing.undo();
    else return;
    event.preventDefault();
    changed();
  });
  onTheme(() => changed(false), signal);

  const example = async () => {
    drawing.show(await examplePixels(card));
    changed();
  };
  const fitting = tick("Fit and centre, as the data was", fit, (on) => { fit = on; changed(); });
  const sliders = [
    slider("Turn", { min: -90, max: 90, value: 0 }, (turn) => { move = { ...move, turn }; changed(); }, (degrees) => `${degrees}°`),
    slider("Shift right", { min: -width / 2, max: width / 2, step: 0.5, value: 0 }, (right) => { move = { ...move, right }; changed(); }, (by) => `${short(by)} px`),
    slider("Shift down", { min: -height / 2, max: height / 2, step: 0.5, value: 0 }, (down) => { move = { ...move, down }; changed(); }, (by) => `${short(by)} px`),
  ];
  const still = () => {
    move = { turn: 0, right: 0, down: 0 };
    sliders.forEach((each) => each.set(0));
    changed();
  };
  container.append(
    problem,
    h("div", { class: "drawing" },
      panel("Draw", null, pad,
        h("div", { class: "controls" }, choice("Pen", pens, pen, (value) => { pen = value; })), fitting,
        h("div", { class: "row" }, button("Clear", () => { drawing.clear(); changed(); say("cleared"); }), button("Undo", () => { drawing.undo(); changed(); }), button("Example", example))),
      panel("What it sees", null, h("div", { class: "stack" }, sees.element, figures), h("p", { class: "note" }, height >= 20
        ? `${height}×${width} pixels, 0 to ${short(levels)}: fitted into a box of 20 by 20, the centre of mass in the middle.`
        : `${height}×${width} pixels, 0 to ${short(levels)}: how many of each block's 16 cells hold ink.`)),
      panel("What it says", null, verdict, bars.element),
    ),
    panel("Shift and turn", "A convolution slides over the picture, so a shifted picture has shifted maps. It does not turn with it: watch the probabilities fall. All angles are one request.",
      h("div", { class: "split even" },
        h("div", {}, ...sliders, h("div", { class: "row" }, button("Put it back", still))),
        h("div", {}, curve.element)),
      equivariance),
    noInside, inside, convolution(),
  );
  if (!card.internals) lookInside(card, null, noInside, signal);
  return example();
}

/** The pictures that convolutions answer. */
function mapsOf(internals) {
  return ofKind(internals, "feature_maps").filter((each) => each.axes.length === 3);
}

/** The pixels [height][width] of the card's example: numbers, or a grey picture in base64. */
async function examplePixels(card) {
  const example = card.example.instances[0];
  if (Array.isArray(example)) return example[0];
  const image = new Image();
  image.src = `data:image/png;base64,${example.b64}`;
  await image.decode();
  const canvas = h("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  return Array.from({ length: image.height }, (_, r) => Array.from({ length: image.width }, (_, c) => data[(r * image.width + c) * 4]));
}

/** For each layer, the maps of the moved picture beside the moved maps of the picture, and how far apart they are. */
function compare(now, before, { turn, right, down }, width) {
  const rows = now.map((layer, i) => {
    const factor = layer.data[0][0].length / width;
    const moved = before[i].data.map((map) => resampled(map, turn, right * factor, down * factor));
    let [off, size] = [0, 0];
    layer.data.forEach((map, k) => map.forEach((row, r) => row.forEach((value, c) => { off += (value - moved[k][r][c]) ** 2; size += value ** 2; })));
    const busiest = layer.data.map((map, k) => [map.flat().reduce((sum, value) => sum + Math.abs(value), 0), k]).sort((a, b) => b[0] - a[0])[0][1];
    const range = extent([layer.data[busiest], moved[busiest]]);
    const pair = [["moved, then filtered", layer.data[busiest]], ["filtered, then moved", moved[busiest]]].map(([name, map]) => {
      const shown = new HeatMap(`${layer.name}, ${name}`);
      shown.draw(map, range);
      return h("figure", { class: "map" }, shown.element, h("figcaption", {}, name));
    });
    return h("div", { class: "pair" }, h("h3", {}, layer.name), pair, h("p", { class: "note" }, `apart by ${percent(Math.sqrt(off / (size || 1)), 0)}`));
  });
  return [h("h3", {}, "The strongest map of each layer"), h("div", { class: "pairs-of-maps" }, rows)];
}
