// Which view suits a model: decided by what its card says it takes and answers, never by its name.

import { rowShape, valueInputs } from "./describe.js";

const VIEWS = [
  { title: "Decision boundary", suits: isPlane, load: () => import("./mlp.js") },
  { title: "Draw", suits: isDrawing, load: () => import("./cnn.js") },
  { title: "Adding problem", suits: isAdding, load: () => import("./lstm.js") },
  { title: "Recall", suits: (card) => recallCode(card) !== null, load: () => import("./transformer.js") },
];

/** The view made for what a model does; undefined where the form is all there is. */
export function viewOf(card) {
  return VIEWS.find((view) => view.suits(card));
}

function isClassifier(card) {
  return card.task.type === "multiclass" || card.task.type === "binary";
}

function only(card) {
  const inputs = valueInputs(card);
  return inputs.length === 1 ? inputs[0] : null;
}

/** Two numbers, and one of several labels: a map of the plane. */
function isPlane(card) {
  const spec = only(card);
  const columns = card.preprocessing.find((step) => step.type === "columns")?.columns ?? [];
  return (
    isClassifier(card) && spec?.dtype === "float32" && rowShape(spec).length === 1 && spec.shape[1] === 2 && columns.every((column) => column.type === "numeric")
  );
}

/** Small grey pictures, told apart. */
function isDrawing(card) {
  const spec = only(card);
  const shape = spec ? rowShape(spec) : [];
  const [channels, height, width] = shape;
  return card.task.type === "multiclass" && spec.dtype === "float32" && shape.length === 3 && channels === 1 && height >= 6 && height <= 32 && width >= 6 && width <= 32;
}

/** Steps of (number, marker), and one number: the sum of those marked. */
function isAdding(card) {
  const spec = only(card);
  const [length, width] = spec ? rowShape(spec) : [];
  return card.task.type === "regression" && card.task.targets.join() === "sum" && spec.dtype === "float32" && length?.axis === "length" && width === 2;
}

/**
 * {keys, values} where tokens stand for key-value pairs and queries, as associative recall has them: a pair is
 * values · key + value, a query keys · values + key, and there is a label for each value. null for any other model.
 */
export function recallCode(card) {
  const spec = only(card);
  if (!spec?.bounds || spec.bounds.min !== 0 || rowShape(spec).length !== 1 || card.task.type !== "multiclass") return null;
  const values = card.task.labels.length;
  const keys = (spec.bounds.max + 1) / (values + 1);
  const named = card.task.labels.every((label, i) => label === String(i));
  return named && Number.isInteger(keys) && /pairs/.test(spec.description) ? { keys, values } : null;
}
