// Activation functions with their gradients, and softmax at any temperature on the logits of a served model.

import { ApiError, card as askCard, index, pathOf, post } from "./api.js";
import { Bars, LineChart, seriesColour } from "./charts.js";
import { rowShape, valueInputs } from "./describe.js";
import { field, h, panel, slider, tick, trouble } from "./dom.js";
import { lastInstance } from "./recent.js";
import { short, softmax } from "./numbers.js";

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
/** The error function (Abramowitz and Stegun 1964, 7.1.26: within 1.5e-7). */
const erf = (x) => {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const tail = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * Math.exp(-x * x);
  return Math.sign(x) * (1 - tail);
};
const normal = (x) => 0.5 * (1 + erf(x / Math.SQRT2));
const density = (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);

/** [function, gradient]; at 0, ReLU and leaky ReLU have the gradient from the right. */
export const FUNCTIONS = {
  "sigmoid": [sigmoid, (x) => sigmoid(x) * (1 - sigmoid(x))],
  "tanh": [Math.tanh, (x) => 1 - Math.tanh(x) ** 2],
  "ReLU": [(x) => Math.max(0, x), (x) => (x < 0 ? 0 : 1)],
  "leaky ReLU": [(x) => (x < 0 ? 0.01 * x : x), (x) => (x < 0 ? 0.01 : 1)],
  "ELU": [(x) => (x < 0 ? Math.expm1(x) : x), (x) => (x < 0 ? Math.exp(x) : 1)],
  "SiLU": [(x) => x * sigmoid(x), (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x)))],
  "GELU": [(x) => x * normal(x), (x) => normal(x) + x * density(x)],
};
const NAMES = Object.keys(FUNCTIONS);
const REACH = 4;

export async function show(container, _, signal) {
  container.append(
    h("header", { class: "head" }, h("h1", {}, "Functions inside networks"), h("p", { class: "lead" }, "What bends the numbers between two layers, how much of the error it passes back, and how logits become probabilities.")),
    activations(),
    await temperature(signal),
  );
}

function activations() {
  const shown = new Set(["sigmoid", "tanh", "ReLU", "GELU"]);
  let at = 1;
  const values = new LineChart("Activation functions", { height: 300 });
  const gradients = new LineChart("Their gradients", { height: 300 });
  const table = h("tbody");
  const grid = Array.from({ length: 321 }, (_, i) => -REACH + (i * 2 * REACH) / 320);
  const draw = () => {
    const series = (which) => NAMES.filter((name) => shown.has(name)).map((name) => {
      const i = NAMES.indexOf(name);
      return { name, colour: seriesColour(i), dash: i % 2 === 1, points: grid.map((x) => [x, FUNCTIONS[name][which](x)]) };
    });
    const x = { min: -REACH, max: REACH };
    values.draw({ series: series(0), x, y: { min: -1.2, max: 4 }, marks: [{ at }] });
    gradients.draw({ series: series(1), x, y: { min: -0.25, max: 1.25 }, marks: [{ at }] });
    table.replaceChildren(...NAMES.filter((name) => shown.has(name)).map((name) => h("tr", {}, h("th", { scope: "row" }, name), FUNCTIONS[name].map((each) => h("td", { class: "number" }, each(at).toFixed(4))))));
  };
  draw();
  return panel("Activations and their gradients", "Where a gradient is near 0, learning stops: sigmoid and tanh saturate on both sides, ReLU is silent on the left.",
    h("div", { class: "controls ticks" }, NAMES.map((name) => tick(name, shown.has(name), (on) => { if (on) shown.add(name); else shown.delete(name); draw(); }))),
    h("div", { class: "halves" }, h("div", {}, h("h3", {}, "f(x)"), values.element), h("div", {}, h("h3", {}, "f′(x)"), gradients.element)),
    h("div", { class: "halves" },
      slider("x", { min: -REACH, max: REACH, step: 0.05, value: at }, (x) => { at = x; draw(); }, (x) => x.toFixed(2)),
      h("div", {}, h("table", {}, h("thead", {}, h("tr", {}, ["at x", "f(x)", "f′(x)"].map((head, i) => h("th", { scope: "col", class: i > 0 && "number" }, head)))), table))),
  );
}

/** Softmax of real logits: of the instance that a classifier was last asked about in this page, or of its example. */
async function temperature(signal) {
  const names = [...new Set((await index()).filter((entry) => entry.state === "READY").map((entry) => entry.name))];
  const cards = (await Promise.all(names.map((name) => askCard({ name }, { signal })))).filter((card) => card.task.type === "multiclass" && card.takes !== "picture" && card.takes !== "text" && valueInputs(card).length === 1);
  const title = "Softmax with a temperature";
  const note = "Logits divided by T, then softmax. A low T is sure of itself, a high one is not; the model's own T was fitted on held-out data, so that its probabilities mean what they say.";
  if (!cards.length) return panel(title, note, h("p", { class: "note" }, "No served model tells classes apart from numbers."));
  let card = cards[0];
  let logits = [];
  let T = 1;
  const bars = new Bars("Probabilities at this temperature", { limit: 20 });
  const problem = h("div");
  const facts = h("p", { class: "note", role: "status" });
  const draw = () => {
    const shares = softmax(logits, T);
    bars.set(card.task.labels.map((label, i) => [`${label} (${signed(logits[i])})`, shares[i]]));
    const entropy = -shares.reduce((sum, share) => sum + (share ? share * Math.log2(share) : 0), 0);
    facts.textContent = `Entropy ${entropy.toFixed(2)} of ${Math.log2(shares.length).toFixed(2)} bits. The model's own T is ${short(card.task.temperature)}.`;
  };
  const knob = slider("T", { min: -1.5, max: 1.5, step: 0.001, value: 0 }, (log) => { T = 10 ** log; draw(); }, (log) => (10 ** log).toFixed(2));
  const ask = async () => {
    try {
      const answer = await post(`v2/${pathOf(card)}/infer`, { inputs: [tensorOf(card, lastInstance(card))] }, { signal });
      logits = answer.outputs.find((output) => output.name === card.task.output).data;
      problem.replaceChildren();
      T = card.task.temperature;
      knob.set(Math.log10(T));
      draw();
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
      problem.replaceChildren(trouble(error));
    }
  };
  await ask();
  const select = h("select", { onchange: (event) => { card = cards[event.target.value]; ask(); } }, cards.map((each, i) => h("option", { value: i }, each.name)));
  return panel(title, note,
    h("div", { class: "split even" },
      h("div", {}, field("Logits of", select, { note: "For what you last tried in its view, else for its example." }), knob, facts, problem),
      h("div", {}, bars.element)),
  );
}

function signed(logit) {
  return `${logit < 0 ? "−" : "+"}${Math.abs(logit).toFixed(1)}`;
}

/** An instance as the one tensor of a JSON request. */
function tensorOf(card, instance) {
  const [spec] = valueInputs(card);
  const kinds = { float32: "FP32", float64: "FP64", int64: "INT64", int32: "INT32" };
  const columns = card.preprocessing.find((each) => each.type === "columns")?.columns;
  const rows = Array.isArray(instance) ? instance : columns.map((column) => (column.type === "categorical" ? column.categories.indexOf(instance[column.name]) : (instance[column.name] ?? column.mean)));
  const data = [rows].flat(Infinity);
  const dims = rowShape(spec);
  const shape = [1, ...dims.map((dim) => (dim.axis === "length" ? data.length / dims.reduce((product, other) => product * (other.axis ? 1 : other), 1) : dim))];
  return { name: spec.name, shape, datatype: kinds[spec.dtype], data };
}
