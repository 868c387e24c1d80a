// A card in words.

import { percent, plural, short } from "./numbers.js";

/** The inputs a caller must give: all but the mask. */
export function valueInputs(card) {
  return card.signature.inputs.filter((spec) => spec.role === "value");
}

/** A tensor's axes without the batch: numbers, or {axis, min, max} for a length. */
export function rowShape(spec) {
  return spec.shape.slice(1);
}

/** The preprocessing step of one type, if the card has it. */
export function step(card, type) {
  return card.preprocessing.find((one) => one.type === type);
}

/** What the model decides or computes. */
export function answers(card) {
  const { task } = card;
  if (task.type === "regression") return task.targets.length === 1 ? `a number (${task.targets[0]})` : plural(task.targets.length, "number");
  if (task.type === "multilabel") return `any of ${plural(task.labels.length, "label")}`;
  if (task.type === "binary") return `${task.labels[0]} or ${task.labels[1]}`;
  return `one of ${task.labels.length} labels`;
}

/** What it takes. */
export function takes(card) {
  const inputs = valueInputs(card);
  if (inputs.length > 1) return `${inputs.length} tensors`;
  const shape = rowShape(inputs[0]);
  const length = shape.find((dim) => dim.axis === "length");
  if (card.takes === "text") return "a text";
  if (step(card, "columns")) {
    const { columns } = step(card, "columns");
    const names = columns.map((column) => column.name).join(", ");
    return columns.length <= 3 ? `${plural(columns.length, "number")} (${names})` : plural(columns.length, "column");
  }
  if (length && inputs[0].bounds) return `${length.min} to ${length.max} tokens`;
  if (length) return `${length.min} to ${length.max} steps of ${plural(shape.at(-1), "number")}`;
  if (shape.length === 3 && (shape[0] === 1 || shape[0] === 3)) return `a ${shape[0] === 1 ? "grey" : "coloured"} picture, ${shape[1]}×${shape[2]}`;
  return `${shape.join("×") || "1"} numbers`;
}

/** How near the way that serves is to PyTorch: outputs within a limit, or, with 8 bits, decisions and the metric. */
export function proof(card) {
  const way = serving(card);
  if (way.max_error === null) return "proven here by its golden rows";
  if (way.precision !== "int8" && way.precision !== "fp8") return `within ${short(way.max_error)} of PyTorch`;
  const decided = way.agreement === null ? "" : `${percent(way.agreement)} of decisions as PyTorch, `;
  return `${decided}${card.metric.name} ${way.metric_loss === 0 ? "unchanged" : `${way.metric_loss > 0 ? "−" : "+"}${short(Math.abs(way.metric_loss) * 100)} points`}`;
}

/** The number it is judged by. */
export function metric(card) {
  const { name, value, floor, better } = card.metric;
  const limit = floor === null ? "" : ` (${better === "higher" ? "≥" : "≤"} ${short(floor)} asked)`;
  return `test ${name} ${["accuracy", "macro F1"].includes(name) ? value.toFixed(4) : short(value)}${limit}`;
}

/** The way that serves. */
export function serving(card) {
  return card.ways.find((way) => way.serves) ?? card.ways[0];
}
