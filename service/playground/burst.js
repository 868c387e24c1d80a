// Many requests at once, and which of them shared a batch: each answer says so itself (`explain`).

import { ApiError, predict } from "./api.js";
import { button, field, h, panel, s, slider, trouble } from "./dom.js";
import { milliseconds, plural, short } from "./numbers.js";

const LINE = 7; // px for a request
const COLOURS = ["--s1", "--s2", "--s3", "--s4", "--s5", "--s6"];

export function burst(cards, signal) {
  let card = cards[0];
  let count = 32;
  let rows = 1;
  const result = h("div", { class: "burst" });
  const summary = h("p", { class: "outcome", role: "status" }, "Nothing sent yet.");
  const send = button("Send them", () => run(), { class: "primary" });
  const run = async () => {
    send.disabled = true;
    summary.textContent = "Under way …";
    const instances = Array(rows).fill(card.example.instances[0]);
    const began = performance.now();
    const answered = await Promise.all(
      Array.from({ length: count }, async () => {
        try {
          const answer = await predict(card, instances, { explain: true, signal });
          return { at: performance.now() - began, ...answer.explanation };
        } catch (error) {
          if (!(error instanceof ApiError)) throw error;
          return { at: performance.now() - began, error };
        }
      }),
    ).finally(() => { send.disabled = false; });
    const good = answered.filter((one) => !one.error).sort((a, b) => a.at - b.at);
    const refused = answered.find((one) => one.error);
    result.replaceChildren(...(good.length ? picture(good, rows) : []), ...(refused ? [trouble(refused.error)] : []));
    summary.textContent = said(good, answered.length - good.length, rows);
  };
  const select = h("select", { onchange: (event) => { card = cards[event.target.value]; } },
    cards.map((each, i) => h("option", { value: i }, each.versions.length > 1 ? `${each.name} v${each.version}` : each.name)));
  return panel("Batches forming", "Requests that wait together run together. Send many at once and see which of them shared a batch.",
    h("div", { class: "controls" },
      field("Model", select),
      slider("Requests", { min: 1, max: 128, value: count }, (value) => { count = value; }),
      slider("Rows in each", { min: 1, max: 16, value: rows }, (value) => { rows = value; }),
      send,
    ),
    summary, result,
    h("p", { class: "note" }, "A browser talks to one server over at most 6 connections, so at most 6 of these requests are with the server at any time; the others wait in the browser. More rows in each request, or more clients, make larger batches: “make loadtest” is such clients."),
  );
}

/** Answers of the same batch have the same figures to the microsecond. */
function batchOf(one) {
  return `${one.compute_ms} ${one.pad_ms} ${one.batch_rows}`;
}

function said(good, failed, rows) {
  if (!good.length) return `None of ${plural(failed, "request")} was answered.`;
  const batches = new Map(good.map((one) => [batchOf(one), one.batch_rows]));
  const sizes = [...batches.values()];
  const shared = good.filter((one) => one.batch_rows > rows).length;
  return `${plural(good.length, "answer")} within ${milliseconds(good.at(-1).at)}, in ${plural(sizes.length, "batch", "batches")} of ${short(Math.min(...sizes))} to ${short(Math.max(...sizes))} rows; ${plural(shared, "request")} shared a batch.${failed ? ` ${plural(failed, "request")} failed.` : ""}`;
}

/** Answers by the batch they came from, in the order of the first answer: [[answer, …], …]. */
function byBatch(answers) {
  const found = new Map();
  for (const one of answers) found.set(batchOf(one), [...(found.get(batchOf(one)) ?? []), one]);
  return [...found.values()];
}

function picture(answers, rows) {
  const batches = byBatch(answers);
  const colour = new Map(batches.flatMap((batch, i) => batch.map((one) => [one, `var(${COLOURS[i % COLOURS.length]})`])));
  return [stacks(batches, rows, colour), h("details", {}, h("summary", {}, "When each was answered"), course(answers, colour))];
}

/** A column for each batch, of the requests that shared it. */
function stacks(batches, rows, colour) {
  const most = Math.max(...batches.map((batch) => batch[0].batch_rows));
  const told = ([{ batch_rows, left_because, pad_ms, compute_ms }]) => `${plural(batch_rows, "row")}, left because ${left_because}; computed in ${milliseconds(pad_ms + compute_ms)}`;
  return h("figure", { class: "figure" },
    h("div", { class: "stacks", role: "img", "aria-label": `Batches in the order of their answers, by rows: ${batches.map((batch) => batch[0].batch_rows).join(", ")}` },
      batches.map((batch) => h("div", { title: told(batch) },
        batches.length <= 48 ? h("span", {}, String(batch[0].batch_rows)) : null,
        batch.map((one) => h("i", { style: { height: `${(rows / most) * 100}%`, background: colour.get(one) } }))))),
    h("figcaption", { class: "note" }, "A column is a batch, a block in it one of the requests that shared it; in the order of their answers."));
}

/** A line for each request: in the browser or on the way, in the server's queue, computed. One colour is one batch. */
function course(answers, colour) {
  const end = answers.at(-1).at;
  const height = answers.length * LINE + 4;
  const svg = s("svg", { class: "chart requests", viewBox: `0 0 1000 ${height}`, preserveAspectRatio: "none", height, role: "img", "aria-label": "The requests over time" });
  const at = (time) => (Math.max(0, time) / end) * 1000;
  answers.forEach((one, i) => {
    const begins = one.at - one.queue_ms - one.pad_ms - one.compute_ms;
    const bar = (from, to, kind, fill) => s("rect", { class: kind, x: at(from), y: i * LINE + 1, width: Math.max(1.5, at(to) - at(from)), height: LINE - 2, style: fill ? { fill } : {} });
    svg.append(bar(0, begins, "away"), bar(begins, begins + one.queue_ms, "waits", colour.get(one)), bar(one.at - one.pad_ms - one.compute_ms, one.at, "runs", colour.get(one)));
  });
  return h("div", {},
    svg,
    h("div", { class: "ends" }, h("span", {}, "sent"), h("span", {}, milliseconds(end))),
    h("ul", { class: "legend" },
      h("li", {}, h("i", { class: "swatch away" }), "in the browser or on the way"),
      h("li", {}, h("i", { class: "swatch waits" }), "waiting for its batch"),
      h("li", {}, h("i", { class: "swatch runs" }), "computing")),
  );
}
