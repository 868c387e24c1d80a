// How far each way to serve a version is from PyTorch, as its export measured it, and which one serves.

import { address, pathOf } from "./api.js";
import { h, panel } from "./dom.js";
import { key } from "./key.js";
import { bytes, milliseconds, percent, plural, short } from "./numbers.js";

export function show(container, card) {
  const rows = card.ways.map((way) =>
    h("tr", { class: way.serves ? "serves" : way.skipped ? "skipped" : "" },
      h("th", { scope: "row" }, `${way.precision} on ${way.provider}`, way.serves ? h("span", { class: "badge" }, "serves") : null, h("code", {}, way.artifact)),
      h("td", { class: "number" }, bytes(way.bytes)),
      h("td", { class: "number" }, short(way.max_error)),
      h("td", {}, way.gate_used === null ? "–" : gauge(way.gate_used)),
      h("td", { class: "number" }, way.agreement === null ? "–" : percent(way.agreement, 2)),
      h("td", { class: "number" }, way.metric === null ? "–" : short(way.metric)),
      h("td", { class: "number" }, milliseconds(way.one_row_ms)),
      h("td", { class: "number" }, way.rows_per_second === null ? "–" : Math.round(way.rows_per_second).toLocaleString("en")),
    ),
  );
  const skipped = new Map();
  for (const way of card.ways) {
    if (way.skipped) skipped.set(way.skipped, [...(skipped.get(way.skipped) ?? []), `${way.artifact} on ${way.provider}`]);
  }
  const heads = ["runs on", "size", "off by", "of the limit", "decides alike", card.metric.name, "one row", "rows/s"];
  container.append(
    panel("Ways to serve it", `Every file was compared with the PyTorch original before it was published, and must repeat golden rows on this machine before it serves. In the order tried; measured on ${card.measured_on}. “Off by” is the largest difference of an output on held-out rows, “of the limit” the narrowest of its gate. A dash: it could not be run there.`,
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of the ways" },
        h("table", { class: "ways" }, h("thead", {}, h("tr", {}, heads.map((head, i) => h("th", { scope: "col", class: [1, 2, 4, 5, 6, 7].includes(i) && "number" }, head)))), h("tbody", {}, rows)),
      ),
      card.report ? report(card) : h("p", { class: "note" }, "This version was published without a report page."),
    ),
    skipped.size
      ? panel("Passed over on this machine", null, h("dl", { class: "reasons" }, [...skipped].map(([why, names]) => [h("dt", {}, why), h("dd", {}, names.join(", "))])))
      : "",
    panel("Where it comes from", null, h("dl", { class: "pairs" },
      pair("Data", `${card.data.name}: ${Object.entries(card.data.rows).map(([split, count]) => `${count.toLocaleString("en")} ${split}`).join(", ")}`),
      pair("Published", card.created.replace("T", " ").slice(0, 16)),
      Object.entries(card.metrics).map(([name, value]) => pair(`Test ${name}`, short(value))),
      card.task.temperature ? pair("Calibration", `logits are divided by ${short(card.task.temperature)} before they become probabilities`) : null,
      pair("Takes at once", plural(card.max_rows, "row")),
      pair("Inside to look at", card.internals ? "yes" : "no: it was published without explain.onnx"),
    )),
  );
}

function pair(name, value) {
  return [h("dt", {}, name), h("dd", {}, value)];
}

function gauge(share) {
  const meter = h("span", { class: "meter" }, h("i", { style: { width: `${Math.min(1, share) * 100}%` } }));
  return h("span", { class: "gauge" }, meter, percent(share));
}

function report(card) {
  const path = `${pathOf(card)}/report`;
  if (key()) return h("p", {}, "The whole report, with its pictures: ", h("code", {}, `curl -H "Authorization: Bearer $KEY" ${address(path)}`));
  return h("p", {}, h("a", { href: path, target: "_blank", rel: "noopener" }, "The whole report, with its pictures"));
}
