// Any model, asked through a form made from its card: numbers, columns, text, a picture, a table as CSV, or JSON.

import { ApiError, call, internals, pathOf } from "./api.js";
import { Bars } from "./charts.js";
import { classColours } from "./colours.js";
import { rowShape, step, valueInputs } from "./describe.js";
import { button, choice, field, h, panel, say, trouble } from "./dom.js";
import { panels } from "./internals.js";
import { milliseconds, percent, plural, short } from "./numbers.js";
import { remember } from "./recent.js";
import { curl, python } from "./snippets.js";

const MOST_FIELDS = 40; // numbers that get a field each; more are given as JSON
const MOST_SHOWN = 50; // answers of one request

export function show(container, card, signal) {
  const ways = waysToAsk(card);
  let way = Object.values(ways)[0];
  const body = h("div", { class: "asking" });
  const result = h("div", { class: "answers" });
  const code = h("div", { class: "snippets" });
  const inside = h("div", { class: "body" });

  const choose = (chosen) => {
    way = chosen;
    body.replaceChildren(...[way.element].flat());
    code.replaceChildren();
  };
  const request = () => {
    const read = way.read();
    if (read.type === "application/json" && read.instances) return { ...read, query: "", body: JSON.stringify({ instances: read.instances, explain: true }) };
    return { ...read, query: "explain=true" };
  };
  const attempt = async (work) => {
    try {
      await work();
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError) && !(error instanceof SyntaxError) && !(error instanceof Missing)) throw error;
      result.replaceChildren(trouble(error instanceof SyntaxError ? new Error(`This is not JSON: ${error.message}`) : error));
    }
  };
  const ask = () => attempt(async () => {
    const { type, body: sent, query, instances } = request();
    const began = performance.now();
    const response = await call(`${pathOf(card)}/predict${query ? `?${query}` : ""}`, { method: "POST", body: sent, headers: { "Content-Type": type }, signal });
    const answer = await response.json();
    const took = performance.now() - began;
    if (instances) remember(card, instances[0]);
    result.replaceChildren(...shown(card, answer, took));
    say(result.querySelector(".verdict")?.textContent ?? "answered");
  });
  const look = () => attempt(async () => {
    const { instances } = request();
    if (!instances) throw new Missing("To look inside, give the row as fields or as JSON.");
    const found = await internals(card, instances.slice(0, 1), { signal });
    inside.replaceChildren(...panels(found.internals, card));
  });
  const copy = (write) => attempt(async () => {
    const text = write(card, request());
    const note = h("span", { class: "note", role: "status" });
    code.replaceChildren(h("pre", { tabindex: 0 }, h("code", {}, text)), note);
    await navigator.clipboard?.writeText(text).then(() => { note.textContent = "Copied."; }, () => { note.textContent = "Select it to copy it."; });
  });

  choose(way);
  const titles = Object.keys(ways);
  container.append(
    h("div", { class: "split even" },
      panel("Ask it", null,
        titles.length > 1 ? choice("Give", ways, way, choose) : null,
        h("form", { onsubmit: (event) => { event.preventDefault(); ask(); } },
          body,
          h("div", { class: "row" }, h("button", { class: "primary" }, "Ask"), button("Copy as curl", () => copy(curl)), button("Copy as Python", () => copy(python)), card.internals ? button("Look inside", look) : null),
        ),
        code,
      ),
      panel("Answer", null, h("p", { class: "note first" }, "Nothing asked yet."), result),
    ),
    inside,
  );
}

/** Something the form needs before it can ask. */
class Missing extends Error {}

/** The forms that this model takes, by name: {element, read() → {type, body} or {type, instances}}. */
function waysToAsk(card) {
  const found = {};
  const [spec, ...more] = valueInputs(card);
  const columns = step(card, "columns")?.columns;
  const shape = rowShape(spec);
  if (card.takes === "picture") found["a picture"] = picture(spec);
  if (card.takes === "text") found["a text"] = text(card);
  if (columns && !more.length) found.fields = fields(columns, card.example.instances[0]);
  else if (!more.length && card.takes === "numbers" && shape.length === 1 && typeof shape[0] === "number" && shape[0] <= MOST_FIELDS) found.fields = numbers(spec, shape[0], card.example.instances[0]);
  if (card.takes === "table" || card.takes === "text") found.CSV = csv(card, columns);
  found.JSON = json(card);
  return found;
}

function fields(columns, example) {
  const given = typeof example === "object" && !Array.isArray(example) ? example : {};
  const controls = columns.map((column, i) => {
    const value = given[column.name] ?? (Array.isArray(example) ? example[i] : null);
    if (column.type === "categorical") {
      return h("select", { "data-column": column.name }, h("option", { value: "" }, "missing"), column.categories.map((name) => h("option", { value: name, selected: name === value }, name)));
    }
    return h("input", { type: "number", step: "any", value: value ?? "", placeholder: `missing (taken as ${short(column.mean)})`, "data-column": column.name });
  });
  const read = () => ({
    type: "application/json",
    instances: [Object.fromEntries(columns.map((column, i) => [column.name, controls[i].value === "" ? null : column.type === "categorical" ? controls[i].value : Number(controls[i].value)]))],
  });
  return { element: h("div", { class: "fields" }, columns.map((column, i) => field(column.name, controls[i]))), read };
}

function numbers(spec, count, example) {
  const inputs = Array.from({ length: count }, (_, i) => h("input", { type: "number", step: "any", required: true, value: Array.isArray(example) ? example[i] : "" }));
  return { element: h("div", { class: "fields" }, inputs.map((input, i) => field(`${spec.name} ${i}`, input))), read: () => ({ type: "application/json", instances: [inputs.map((input) => input.valueAsNumber)] }) };
}

function text(card) {
  const example = card.example.instances[0];
  const area = h("textarea", { rows: 6, required: true, class: "prose" }, typeof example === "string" ? example : (example.text ?? ""));
  return { element: field("Text", area, { wide: true }), read: () => ({ type: "application/json", instances: [area.value] }) };
}

function csv(card, columns) {
  const example = card.example.instances[0];
  const head = columns ? columns.map((column) => column.name) : ["text"];
  const cell = (value) => (value === null || value === undefined ? "" : /[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const row = columns ? head.map((name, i) => cell(Array.isArray(example) ? example[i] : example[name])) : [cell(typeof example === "string" ? example : example.text)];
  const area = h("textarea", { rows: 8, required: true, spellcheck: "false" }, `${head.map(cell).join(",")}\n${row.join(",")}\n`);
  return { element: field("CSV", area, { wide: true, note: "A line of column names, then a line for each row; paste from a spreadsheet's CSV file." }), read: () => ({ type: "text/csv", body: area.value }) };
}

function json(card) {
  const area = h("textarea", { rows: 10, required: true, spellcheck: "false" }, pretty(card.example.instances));
  return {
    element: field("Instances", area, { wide: true, note: `A list of rows, at most ${card.max_rows.toLocaleString("en")}. ${valueInputs(card).map((spec) => `${spec.name}: ${spec.dtype} [${rowShape(spec).map((dim) => dim.axis ?? dim).join(", ")}]`).join("; ")}` }),
    read: () => ({ type: "application/json", instances: JSON.parse(area.value) }),
  };
}

/** A picture file, from the disk or dropped; its own bytes are the body. */
function picture(spec) {
  const [, height, width] = rowShape(spec);
  const preview = h("img", { class: "preview", alt: "The chosen picture", hidden: true });
  const input = h("input", { type: "file", accept: "image/png,image/jpeg" });
  const zone = h("div", { class: "drop" }, field("PNG or JPEG", input, { note: `Or drop a file here. The model sees ${height}×${width} pixels.` }), preview);
  let file = null;
  const take = (chosen) => {
    if (!chosen) return;
    file = chosen;
    URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(chosen);
    preview.hidden = false;
  };
  input.addEventListener("change", () => take(input.files[0]));
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => { event.preventDefault(); zone.classList.remove("over"); take(event.dataTransfer.files[0]); });
  return {
    element: zone,
    read: () => {
      if (!file) throw new Missing("Choose a picture first.");
      return { type: file.type || "application/octet-stream", body: file };
    },
  };
}

/** Short enough to read: lists of numbers stay on a line. */
function pretty(instances) {
  return JSON.stringify(instances, null, 1).replace(/\[[^[\]{}]*\]/g, (inner) => inner.replace(/\s+/g, " ").replace("[ ", "[").replace(" ]", "]"));
}

function shown(card, answer, took) {
  const { predictions, explanation } = answer;
  const rows = predictions.slice(0, MOST_SHOWN);
  const found = rows.length === 1 ? [one(card, rows[0])] : [h("p", { class: "verdict" }, plural(predictions.length, "answer")), many(card, rows)];
  if (predictions.length > rows.length) found.push(h("p", { class: "note" }, `The first ${MOST_SHOWN} are shown.`));
  return [...found, timing(explanation, took)];
}

function one(card, prediction) {
  if (prediction.values) {
    return h("dl", { class: "values" }, Object.entries(prediction.values).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", { class: "verdict" }, short(value)))));
  }
  const colours = card.task.labels.length <= 4 ? classColours(prediction.probabilities.map((each) => each.label)) : undefined;
  const bars = new Bars("Probabilities", { colours, limit: 20 });
  bars.set(prediction.probabilities.map((each) => [each.label, each.probability]));
  return h("div", { class: "one" }, h("p", { class: "verdict" }, prediction.label ?? (prediction.labels.join(", ") || "none of the labels")), bars.element);
}

function many(card, predictions) {
  const regression = predictions[0].values !== undefined;
  const heads = regression ? Object.keys(predictions[0].values) : ["answer", "probability"];
  return h("div", { class: "scroll points", tabindex: 0, role: "region", "aria-label": "Answers" }, h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "row"), heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, predictions.map((prediction, i) => h("tr", {}, h("td", {}, String(i + 1)),
      regression ? Object.values(prediction.values).map((value) => h("td", {}, short(value))) : [h("td", {}, prediction.label ?? (prediction.labels.join(", ") || "none")), h("td", {}, percent(prediction.probabilities[0].probability))]))),
  ));
}

/** Where the time went, as the server explains it. */
function timing(explanation, took) {
  if (!explanation) return "";
  const { queue_ms, pad_ms, compute_ms } = explanation;
  const rest = Math.max(0, took - queue_ms - pad_ms - compute_ms);
  const left = { idle: "because nothing else ran", freed: "when a session was free", full: "when it was full", window: "when its time was up" }[explanation.left_because] ?? explanation.left_because;
  return h("div", { class: "timing" },
    h("h3", {}, `${milliseconds(took)} from here`),
    h("dl", { class: "pairs" },
      h("dt", {}, "Waiting for its batch"), h("dd", {}, milliseconds(queue_ms)),
      h("dt", {}, "Making the batch"), h("dd", {}, milliseconds(pad_ms)),
      h("dt", {}, "Computing"), h("dd", {}, `${milliseconds(compute_ms)}, ${explanation.precision} on ${explanation.backend} (${explanation.artifact})`),
      h("dt", {}, "Reading, writing, network, browser"), h("dd", {}, milliseconds(rest)),
      h("dt", {}, "Its batch"), h("dd", {}, `${plural(explanation.batch_rows, "row")}, run as ${explanation.batch_bucket}${explanation.length_bucket ? ` of length ${explanation.length_bucket}` : ""}; ${percent(explanation.padding_share)} padding; it left ${left}`),
    ),
  );
}
