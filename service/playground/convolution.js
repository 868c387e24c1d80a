// A convolution in one dimension, by hand: a signal, a kernel that slides over it, and what comes out.

import { LineChart, seriesColour } from "./charts.js";
import { choice, h, panel, slider } from "./dom.js";
import { random, short } from "./numbers.js";

const LENGTH = 64;
const KERNELS = {
  "edge": [-1, 0, 1],
  "smoothing": [0.0625, 0.25, 0.375, 0.25, 0.0625],
  "sharpening": [-0.5, 2, -0.5],
};
const SIGNALS = {
  "steps": (i) => (i < 12 ? 0 : i < 26 ? 1 : i < 40 ? 0.35 : i < 52 ? 0.8 : 0.1),
  "noisy wave": (i, noise) => 0.5 + 0.35 * Math.sin(i / 5) + 0.28 * (noise - 0.5),
  "peaks": (i) => Math.exp(-(((i - 14) / 2) ** 2)) + 0.6 * Math.exp(-(((i - 34) / 5) ** 2)) + 0.85 * Math.exp(-(((i - 52) / 1.2) ** 2)),
};

/** A panel that needs no model. */
export function convolution() {
  let signal = made("steps");
  let kernel = KERNELS.edge;
  let at = 12;
  const before = new LineChart("The signal, and where the kernel lies; drag to draw another", { height: 170 });
  const after = new LineChart("What comes out", { height: 170 });
  const sum = h("p", { class: "mono sum", role: "status" });
  const weights = h("div", { class: "weights" });

  const result = () => signal.map((_, i) => window(i).reduce((total, [value, weight]) => total + value * weight, 0));
  const window = (i) => kernel.map((weight, k) => [signal[Math.min(LENGTH - 1, Math.max(0, i + k - (kernel.length - 1) / 2))], weight]);
  const draw = () => {
    const out = result();
    const half = (kernel.length - 1) / 2;
    const points = signal.map((value, i) => [i, value]);
    const x = { min: 0, max: LENGTH - 1, ticks: [0, 16, 32, 48, 63] };
    before.draw({ series: [{ points, kind: "line", colour: seriesColour(0) }, { points: points.slice(Math.max(0, at - half), at + half + 1), kind: "dots", colour: seriesColour(1) }], x, y: { min: -0.3, max: 1.3 } });
    const [low, high] = [Math.min(-0.3, ...out), Math.max(1.3, ...out)];
    after.draw({ series: [{ points: out.map((value, i) => [i, value]), kind: "line", colour: seriesColour(2) }, { points: [[at, out[at]]], kind: "dots", colour: seriesColour(1) }], x, y: { min: low, max: high } });
    sum.textContent = `${window(at).map(([value, weight]) => `${short(weight)}·${value.toFixed(2)}`).join(" + ").replaceAll("+ -", "− ")} = ${short(out[at])}`;
  };
  const edit = () => {
    const inputs = kernel.map((weight, i) => h("input", { type: "number", step: "any", value: weight, "aria-label": `weight ${i + 1}`, oninput: (event) => { kernel = kernel.with(i, event.target.valueAsNumber || 0); draw(); } }));
    weights.replaceChildren(...inputs);
  };
  let pen = false;
  const stroke = (event) => {
    const [x, y] = before.locate(event);
    signal = signal.with(Math.round(x), y);
    draw();
  };
  before.svg.classList.add("drawable");
  before.svg.addEventListener("pointerdown", (event) => { pen = true; before.svg.setPointerCapture(event.pointerId); stroke(event); });
  before.svg.addEventListener("pointermove", (event) => { if (pen) stroke(event); });
  for (const name of ["pointerup", "pointercancel"]) before.svg.addEventListener(name, () => { pen = false; });

  edit();
  draw();
  const choices = (label, values, chosen, take) => choice(label, Object.fromEntries(Object.keys(values).map((name) => [name, name])), chosen, take);
  return panel("Convolution in one dimension", "The same idea without a network: each number that comes out is a weighted sum of its neighbours. Drag over the signal to draw your own.",
    h("div", { class: "controls" },
      choices("Signal", SIGNALS, "steps", (name) => { signal = made(name); draw(); }),
      choices("Kernel", KERNELS, "edge", (name) => { kernel = KERNELS[name]; edit(); draw(); }),
      h("div", { class: "field", role: "group", "aria-label": "Weights" }, h("span", { class: "caption" }, "Weights"), weights),
    ),
    h("div", { class: "halves" },
      h("div", {}, h("h3", {}, "Signal"), before.element, slider("Place of the kernel", { min: 0, max: LENGTH - 1, value: at }, (value) => { at = value; draw(); })),
      h("div", {}, h("h3", {}, "Result"), after.element, sum)),
  );
}

function made(name) {
  const noise = random(7);
  return Array.from({ length: LENGTH }, (_, i) => SIGNALS[name](i, noise()));
}
