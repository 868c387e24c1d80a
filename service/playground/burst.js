// Many requests at once, and which of them shared a batch: each answer says so itself (`explain`).

import { ApiError, predict } from "./api.js";
import { button, field, h, panel, s, say, slider, trouble } from "./dom.js";
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
    result.replaceChildren(good.length ? picture(good) : "", refused ? trouble(refused.error) : "");
    summary.textContent = said(good, answered.length - good.length, rows);
    say(summary.textContent);
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
    h("p", { class: "note" }, "A browser talks to one server over at most 6 connections, so at most 6 of these requests are with the server at any time; the others wait in the browser (pale). More rows in each request, or several clients, make larger batches. `make loadtest` does that without a browser."),
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

/** A line for each request: in the browser or on the way, in the server's queue, computed. One colour is one batch. */
function picture(answers) {
  const colours = new Map();
  for (const one of answers) if (!colours.has(batchOf(one))) colours.set(batchOf(one), COLOURS[colours.size % COLOURS.length]);
  const end = answers.at(-1).at;
  const height = answers.length * LINE + 22;
  const svg = s("svg", { class: "chart requests", viewBox: `0 0 1000 ${height}`, preserveAspectRatio: "none", height, role: "img", "aria-label": "The requests over time" });
  const at = (time) => (Math.max(0, time) / end) * 1000;
  answers.forEach((one, i) => {
    const inside = one.queue_ms + one.pad_ms + one.compute_ms;
    const y = i * LINE;
    const begins = one.at - inside;
    const colour = `var(${colours.get(batchOf(one))})`;
    const bar = (from, to, kind, fill) => s("rect", { class: kind, x: at(from), y: y + 1, width: Math.max(1.5, at(to) - at(from)), height: LINE - 2, style: fill ? { fill } : {} });
    svg.append(
      s("g", {}, s("title", {}, `${one.batch_rows} rows in its batch, left because ${one.left_because}; waited ${milliseconds(one.queue_ms)}, computed ${milliseconds(one.compute_ms)}`),
        bar(0, begins, "away"), bar(begins, begins + one.queue_ms, "waits", colour), bar(one.at - one.pad_ms - one.compute_ms, one.at, "runs", colour)),
    );
  });
  return h("div", {},
    svg,
    h("div", { class: "ends" }, h("span", {}, "sent"), h("span", {}, milliseconds(end))),
    h("ul", { class: "legend" },
      h("li", {}, h("i", { class: "swatch away" }), "in the browser or on the way"),
      h("li", {}, h("i", { class: "swatch waits" }), "waiting for its batch"),
      h("li", {}, h("i", { class: "swatch runs" }), "computing; a colour is a batch")),
  );
}
