// Associative recall: pairs of key and value, then a key; the model answers its value. Attention shows where it looked.

import { ApiError, predict } from "./api.js";
import { Bars } from "./charts.js";
import { rowShape, valueInputs } from "./describe.js";
import { button, choice, field, h, panel, say, trouble } from "./dom.js";
import { HeatMap, legend } from "./heatmap.js";
import { lookInside, ofKind } from "./internals.js";
import { recallCode } from "./kinds.js";
import { Latest } from "./latest.js";
import { percent, random } from "./numbers.js";
import { remember } from "./recent.js";

export function show(container, card, signal) {
  const code = recallCode(card);
  const { min, max } = rowShape(valueInputs(card)[0])[0];
  const fewest = Math.max(1, min - 1);
  const most = Math.min(code.keys, max - 1);
  let seed = 1;
  let { pairs, query } = made(seed, Math.min(8, most), code);
  let layer = 0;
  let attention = []; // [layer]: {name, data: [head][query][key]}

  const problem = h("div");
  const noInside = h("div");
  const verdict = h("p", { class: "verdict", role: "status" }, "–");
  const check = h("p", { class: "note" });
  const bars = new Bars("Probabilities", { limit: 6 });
  const list = h("ol", { class: "pairs-edit" });
  const asks = h("div", { class: "asks" });
  const looks = h("div", { class: "body" });
  const tokens = () => [...pairs.map(({ key, value }) => code.values * key + value), code.keys * code.values + query];
  const names = () => [...pairs.map(({ key, value }) => `${key}→${value}`), `${query}?`];

  const fail = (error) => {
    if (signal.aborted) return;
    if (!(error instanceof ApiError)) throw error;
    problem.replaceChildren(trouble(error));
  };
  const asked = new Latest(
    ({ sequence }) => Promise.all([predict(card, [sequence], { signal }), card.internals ? lookInside(card, sequence, noInside, signal) : null]),
    ([{ predictions: [prediction] }, found], { sequence, right, labels }) => {
      problem.replaceChildren();
      remember(card, sequence);
      verdict.textContent = prediction.label;
      check.textContent = right === undefined ? "No pair has that key, so any answer is a guess." : Number(prediction.label) === right ? "Right: that is the value stored under it." : `Wrong: ${right} is stored under it.`;
      check.className = right !== undefined && Number(prediction.label) === right ? "note right" : "note";
      bars.set(prediction.probabilities.map((one) => [one.label, one.probability]), { keepOrder: true });
      attention = found ? ofKind(found, "attention") : [];
      drawAttention(labels);
    },
    fail,
  );

  /** Each head of the chosen layer; below each pair, what the query takes from it. */
  const drawAttention = (labels) => {
    for (const bar of list.querySelectorAll(".takes")) bar.replaceChildren();
    if (!attention.length) return;
    const { data } = attention[Math.min(layer, attention.length - 1)];
    const front = data[0].length - labels.length; // a vector that the model puts before the sequence
    const shown = [...Array(Math.max(0, front)).fill("front"), ...labels];
    const asking = data.map((head) => head.at(-1).slice(Math.max(0, front)));
    [...list.querySelectorAll(".takes")].forEach((each, i) => {
      each.replaceChildren(...asking.map((row, head) => h("i", { class: `h${head % 6}`, title: `head ${head + 1}: ${percent(row[i])}`, style: { height: `${Math.round(row[i] * 100)}%` } })));
    });
    const reading = h("output", { class: "reading" });
    looks.replaceChildren(
      panel("Where it looks", "Each map is a head. A row is a position that asks, a column one that it takes from; the last row is the query. The bars above the pairs show that row.",
        h("div", { class: "row between" },
          attention.length > 1 ? choice("Layer", Object.fromEntries(attention.map((each, i) => [`${i + 1}`, i])), Math.min(layer, attention.length - 1), (value) => { layer = value; drawAttention(labels); }) : h("span"),
          legend([0, 1])),
        h("div", { class: "heads" }, data.map((rows, head) => headMap(rows, head, shown, reading))),
        reading),
    );
  };

  const headMap = (rows, head, labels, reading) => {
    const map = new HeatMap(`Head ${head + 1}: attention of ${rows.length} positions`, {
      kind: "square",
      onpoint: (row, column, value) => { reading.textContent = row === null ? "" : `head ${head + 1}: ${labels[row]} takes ${percent(value)} from ${labels[column]}`; },
    });
    map.draw(rows, [0, 1]);
    const side = (kind) => h("ul", { class: `along ${kind}`, "aria-hidden": "true" }, labels.map((label) => h("li", {}, label)));
    return h("figure", { class: "head-map" }, h("figcaption", {}, h("i", { class: `h${head % 6}` }), `Head ${head + 1}`), side("rows"), map.element, side("columns"));
  };

  const select = (label, count, chosen, taken, take) => h("select", { "aria-label": label, onchange: (event) => take(Number(event.target.value)) },
    Array.from({ length: count }, (_, i) => h("option", { value: i, selected: i === chosen, disabled: taken.has(i) && i !== chosen }, String(i))));

  const edit = () => {
    const used = new Set(pairs.map((pair) => pair.key));
    list.replaceChildren(...pairs.map((pair, i) => h("li", { class: pair.key === query ? "asked" : "" },
      h("span", { class: "takes", "aria-hidden": "true" }),
      select(`Key of pair ${i + 1}`, code.keys, pair.key, used, (key) => { pair.key = key; edit(); }),
      h("span", { class: "arrow", "aria-hidden": "true" }, "↓"),
      select(`Value of pair ${i + 1}`, code.values, pair.value, new Set(), (value) => { pair.value = value; edit(); }),
      button("×", () => { pairs.splice(i, 1); edit(); say(`pair ${i + 1} removed`); }, { class: "plain", "aria-label": `Remove pair ${i + 1}`, disabled: pairs.length <= fewest }),
    )));
    const keys = h("select", { onchange: (event) => { query = Number(event.target.value); edit(); } }, Array.from({ length: code.keys }, (_, key) => h("option", { value: key, selected: key === query }, used.has(key) ? String(key) : `${key} (no pair)`)));
    asks.replaceChildren(field("Which value has the key", keys), h("p", { class: "note mono" }, `tokens ${tokens().join(" ")}`));
    add.disabled = pairs.length >= most;
    asked.put({ sequence: tokens(), right: pairs.find((pair) => pair.key === query)?.value, labels: names() });
  };
  const add = button("Add a pair", () => {
    const used = new Set(pairs.map((pair) => pair.key));
    const free = Array.from({ length: code.keys }, (_, key) => key).find((key) => !used.has(key));
    pairs.push({ key: free, value: (free * 7 + pairs.length) % code.values });
    edit();
  });
  const renew = () => {
    ({ pairs, query } = made(++seed, pairs.length, code));
    edit();
  };
  const shuffle = () => {
    const draw = random(++seed);
    for (let i = pairs.length - 1; i > 0; i--) {
      const j = Math.floor(draw() * (i + 1));
      [pairs[i], pairs[j]] = [pairs[j], pairs[i]];
    }
    edit();
  };
  container.append(
    problem,
    panel("Pairs to remember", "Key above, value below. A pair is one token; change any of them and ask.", h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Pairs" }, list), h("div", { class: "row" }, add, button("Shuffle", shuffle), button("New pairs", renew))),
    h("div", { class: "split even" }, panel("The question", null, asks), panel("The answer", null, verdict, check, bars.element)),
    noInside, looks,
  );
  if (!card.internals) lookInside(card, null, noInside, signal);
  edit();
}

/** Pairs with distinct keys, and one of these keys. */
function made(seed, count, { keys, values }) {
  const draw = random(seed);
  const left = Array.from({ length: keys }, (_, key) => key);
  const pairs = Array.from({ length: count }, () => ({ key: left.splice(Math.floor(draw() * left.length), 1)[0], value: Math.floor(draw() * values) }));
  return { pairs, query: pairs[Math.floor(draw() * count)].key };
}
