// What happens inside a model, as its `internals` tell: maps and kernels of convolutions, gates and states over time, attention.

import { internals as ask, ApiError } from "./api.js";
import { h, panel, trouble } from "./dom.js";
import { HeatMap, extent, legend, symmetric } from "./heatmap.js";
import { short } from "./numbers.js";

const MOST_MAPS = 64; // of one layer

const TITLES = {
  feature_maps: ["Feature maps", "What each filter of a layer answers, for this input."],
  kernels: ["Kernels", "The weights that slide over the input: orange adds, blue subtracts."],
  gates: ["Gates", "How far each gate is open, for every unit at every step."],
  states: ["States", "What the network remembers, for every unit at every step."],
  attention: ["Attention", "How much each position (a row) takes from each other (a column)."],
  outputs_by_step: ["Answer after each step", null],
};

/** Asks for the internals of one instance; null, and the reason in `problem`, where there are none. */
export async function lookInside(card, instance, problem, signal) {
  if (!card.internals) {
    problem.replaceChildren(h("p", { class: "note absent-inside" }, `${card.name}:${card.version} was published without explain.onnx, which shows what happens inside. Export it again with this Quartet to have it.`));
    return null;
  }
  try {
    const found = await ask(card, [instance], { signal });
    problem.replaceChildren();
    return found.internals;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    problem.replaceChildren(trouble(error));
    return null;
  }
}

/** Those of one kind, the instance's axis taken off, in the order of their layers. */
export function ofKind(internals, kind) {
  return internals
    .filter((each) => each.kind === kind)
    .map((each) => (each.axes[0] === "instance" ? { ...each, axes: each.axes.slice(1), shape: each.shape.slice(1), data: each.data[0] } : each));
}

/** A panel for each kind there is. */
export function panels(internals) {
  return Object.entries(TITLES).flatMap(([kind, [title, note]]) => {
    const found = ofKind(internals, kind);
    return found.length ? [panel(title, note, found.map((each) => pictureOf(each)))] : [];
  });
}

function pictureOf(each) {
  const { kind, axes, data } = each;
  if (kind === "feature_maps") return maps(each);
  if (kind === "kernels") return kernels(each);
  if (kind === "gates") return gates(each);
  if (axes.length === 3) return h("div", { class: "layer" }, h("h3", {}, each.name), h("div", { class: "maps" }, data.map((rows, i) => named(`${axes[0]} ${i + 1}`, rows, "viridis"))));
  if (axes.length === 2) return h("div", { class: "layer" }, h("h3", {}, each.name), overTime(each.name, transposed(data), kind === "states"));
  return h("div", { class: "layer" }, h("h3", {}, each.name), h("p", { class: "mono" }, data.map(short).join("  ")));
}

function named(name, rows, scale, range) {
  const map = new HeatMap(name, { scale });
  map.draw(rows, range);
  return h("figure", { class: "map" }, map.element, h("figcaption", {}, name));
}

/** Maps of one layer, all on one scale. */
export function maps({ name, data }) {
  const flat = typeof data[0][0] === "number";
  const range = extent(data);
  const shown = data.slice(0, MOST_MAPS);
  return h("div", { class: "layer" },
    h("div", { class: "row between" }, h("h3", {}, `${name}: ${flat ? data.length : `${data.length} maps of ${data[0].length}×${data[0][0].length}`}`), legend(range)),
    h("div", { class: "maps large" }, shown.map((map, i) => {
      const one = new HeatMap(`${name}, map ${i + 1}`);
      one.draw(flat ? [map] : map, range);
      return one.element;
    })),
    data.length > MOST_MAPS ? h("p", { class: "note" }, `The first ${MOST_MAPS} are shown.`) : null,
  );
}

/** Kernels [filters, channels, height, width]: those of the first channel, or the mean over channels. */
export function kernels({ name, data }) {
  const flat = data.slice(0, MOST_MAPS).map((filter) => {
    const pictures = typeof filter[0][0] === "number" ? [filter.length ? filter : [filter]] : filter;
    return pictures.length === 1 ? pictures[0] : pictures[0].map((row, r) => row.map((_, c) => pictures.reduce((sum, picture) => sum + picture[r][c], 0) / pictures.length));
  });
  const range = symmetric(extent(flat));
  const channels = Array.isArray(data[0][0][0]) ? data[0].length : 1;
  return h("div", { class: "layer" },
    h("div", { class: "row between" }, h("h3", {}, `${name}: ${data.length} kernels${channels > 1 ? `, the mean over ${channels} channels` : ""}`), legend(range, "signed")),
    h("div", { class: "maps small" }, flat.map((kernel, i) => {
      const one = new HeatMap(`${name}, kernel ${i + 1}`, { scale: "signed" });
      one.draw(kernel, range);
      return one.element;
    })),
  );
}

/** Gates [step, gate, unit]: one band for each gate, time from left to right. */
export function gates({ name, data, labels }) {
  const count = data[0].length;
  return h("div", { class: "layer" }, h("h3", {}, name), Array.from({ length: count }, (_, gate) => {
    const rows = transposed(data.map((step) => step[gate]));
    const around = extent(rows)[0] < 0;
    return h("div", { class: "gate" }, h("h4", {}, labels?.gate?.[gate] ?? `gate ${gate + 1}`), overTime(`${name}, ${labels?.gate?.[gate] ?? gate}`, rows, around, around ? undefined : [0, 1]));
  }));
}

/** Rows of units over steps, with the legend of its colours. */
export function overTime(label, rows, around, range) {
  const ends = range ?? (around ? symmetric(extent(rows)) : extent(rows));
  const shown = h("output", { class: "reading" });
  const map = new HeatMap(`${label}: ${rows.length} units over ${rows[0].length} steps`, {
    scale: around ? "signed" : "viridis",
    kind: "time",
    onpoint: (row, column, value) => { shown.textContent = row === null ? "" : `unit ${row + 1}, step ${column + 1}: ${short(value)}`; },
  });
  map.draw(rows, ends);
  return h("div", {}, map.element, h("div", { class: "row between" }, legend(ends, around ? "signed" : "viridis"), shown));
}

export function transposed(rows) {
  return rows[0].map((_, column) => rows.map((row) => row[column]));
}
