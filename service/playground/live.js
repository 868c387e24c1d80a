// The service's own figures, read from /metrics again and again while the page shows.

import { ApiError, call } from "./api.js";
import { ColumnChart, LineChart, seriesColour } from "./charts.js";
import { choice, field, h, panel, trouble } from "./dom.js";
import { milliseconds, short } from "./numbers.js";
import { by, histogram, parse, quantile, since, total } from "./prometheus.js";

const PAUSE = 1000; // ms between looks
const KEPT = 90; // looks that the queue's curve shows

/** A panel about one model at a time, up to date until `signal` ends. */
export function live(cards, signal) {
  let shown = cards[0];
  let before = null; // what to subtract: figures when the page was opened, or nothing
  let first = null;
  let last = null;
  const looks = [];

  const tiles = h("dl", { class: "tiles" });
  const problem = h("div");
  const rows = new ColumnChart("Batches by their number of rows");
  const queue = new LineChart("Rows waiting, over the last minute and a half", { height: 150 });
  const stages = [
    ["Waiting for a batch", "quartet_queue_seconds", "Each request, from its arrival to the start of its batch"],
    ["Computing", "quartet_compute_seconds", "Each batch, padding and running it"],
    ["Whole request", "quartet_request_seconds", "Each request, from its first byte to its answer"],
  ].map(([title, name, meaning]) => ({ title, name, meaning, chart: new ColumnChart(`${title}, by how long it took`, { height: 130 }), figures: h("p", { class: "note" }) }));

  const labels = () => ({ model: shown.name, version: shown.version });
  const paint = () => {
    if (!last) return;
    const of = (name) => {
      const now = histogram(last, name, labels());
      return before ? since(now, histogram(before, name, labels())) : now;
    };
    const sum = (name, more = {}) => total(last, name, { ...labels(), ...more }) - (before ? total(before, name, { ...labels(), ...more }) : 0);
    const batches = of("quartet_batch_rows");
    const reasons = by(last, "quartet_batches_total", labels(), "reason");
    const earlier = before ? by(before, "quartet_batches_total", labels(), "reason") : {};
    const left = Object.entries(reasons).map(([reason, count]) => [reason, count - (earlier[reason] ?? 0)]).filter(([, count]) => count > 0);
    tiles.replaceChildren(
      ...[
        ["Requests", sum("quartet_requests_total").toLocaleString("en")],
        ["Not answered with 200", (sum("quartet_requests_total") - sum("quartet_requests_total", { status: "200" })).toLocaleString("en")],
        ["Batches", batches.count.toLocaleString("en")],
        ["Rows in a batch", batches.count ? short(batches.sum / batches.count) : "–"],
        ["Waiting now", short(total(last, "quartet_queue_rows", labels()))],
        ["Sessions", short(total(last, "quartet_sessions", labels()))],
      ].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    );
    rows.draw({ labels: batches.bounds.map((bound, i) => bucketName(batches.bounds, i, (rows) => String(rows))), values: batches.counts, title: "batches" });
    why.textContent = left.length ? `Why batches left: ${left.map(([reason, count]) => `${reason} ${count.toLocaleString("en")}`).join(", ")}.` : "No batch yet.";
    const points = looks.filter((look) => look.model === shown.name).map((look) => [(look.at - performance.now()) / 1000, look.waiting]);
    const most = Math.max(4, ...points.map(([, waiting]) => waiting));
    queue.draw({ series: [{ points, kind: "area", colour: seriesColour(0) }], x: { min: (-KEPT * PAUSE) / 1000, max: 0, format: (seconds) => (seconds ? `${short(-seconds)} s ago` : "now") }, y: { min: 0, max: most, title: "rows" } });
    for (const { name, chart, figures } of stages) {
      const found = of(name);
      chart.draw({ labels: found.bounds.map((bound) => (bound === Infinity ? "more" : milliseconds(bound * 1000))), values: found.counts, colour: seriesColour(1) });
      figures.textContent = found.count ? `half within ${milliseconds(quantile(found, 0.5) * 1000)}, 95 of 100 within ${milliseconds(quantile(found, 0.95) * 1000)}` : "nothing yet";
    }
  };
  const look = async () => {
    try {
      last = parse(await (await call("metrics", { signal })).text());
      first ??= last;
      for (const card of cards) looks.push({ model: card.name, at: performance.now(), waiting: total(last, "quartet_queue_rows", { model: card.name, version: card.version }) });
      looks.splice(0, Math.max(0, looks.length - KEPT * cards.length));
      problem.replaceChildren();
      paint();
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
      problem.replaceChildren(trouble(error));
    }
  };
  const watch = async () => {
    while (!signal.aborted) {
      if (!document.hidden) await look();
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  };
  const why = h("p", { class: "note" });
  const select = h("select", { onchange: (event) => { shown = cards[event.target.value]; paint(); } },
    cards.map((card, i) => h("option", { value: i }, card.versions.length > 1 ? `${card.name} v${card.version}` : card.name)));
  watch();
  return panel("Live figures", "Read from /metrics once a second, as Prometheus reads them.",
    h("div", { class: "controls" }, field("Model", select), choice("Count", { "since the start": false, "since I opened this": true }, false, (fresh) => { before = fresh ? first : null; paint(); })),
    problem, tiles,
    h("div", { class: "halves" },
      h("div", {}, h("h3", {}, "Rows in a batch"), rows.element, why),
      h("div", {}, h("h3", {}, "Rows waiting"), queue.element),
    ),
    h("div", { class: "thirds" }, stages.map(({ title, meaning, chart, figures }) => h("div", {}, h("h3", { title: meaning }, title), chart.element, figures))),
  );
}

/** A bucket by what falls into it: 1, 2, 3–4, 5–8, … */
function bucketName(bounds, i, write) {
  if (bounds[i] === Infinity) return `>${write(bounds[i - 1])}`;
  const low = i ? bounds[i - 1] + 1 : bounds[i];
  return low >= bounds[i] ? write(bounds[i]) : `${write(low)}–${write(bounds[i])}`;
}
