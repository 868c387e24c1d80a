// One model: what it is, and its views.

import { card as askCard } from "./api.js";
import { answers, metric, serving, takes } from "./describe.js";
import { h } from "./dom.js";
import { viewOf } from "./kinds.js";

export async function show(container, { name, version, tab }, signal) {
  const card = await askCard({ name, version }, { signal });
  const own = viewOf(card);
  const base = `#/models/${encodeURIComponent(name)}${version ? `/versions/${encodeURIComponent(version)}` : ""}`;
  const tabs = [
    ...(own ? [["explore", own.title, own.load]] : []),
    ["form", "Ask it", () => import("./form.js")],
    ["proof", "How it is proven", () => import("./proof.js")],
  ];
  const chosen = tabs.find(([id]) => id === tab) ?? tabs[0];
  const way = serving(card);
  const body = h("div", { class: "body" });
  container.append(
    h("header", { class: "head" },
      h("h1", {}, card.name),
      h("p", { class: "lead" }, `${takes(card)[0].toUpperCase()}${takes(card).slice(1)} in, ${answers(card)} out.`),
      h("ul", { class: "facts" },
        card.versions.length > 1 ? h("li", {}, versions(card)) : h("li", {}, `version ${card.version}`),
        h("li", {}, card.family.toUpperCase().length <= 4 ? card.family.toUpperCase() : card.family),
        h("li", {}, `${way.precision} on ${way.provider}`),
        h("li", {}, metric(card)),
      ),
    ),
    h("nav", { class: "tabs", "aria-label": "Views of this model" },
      tabs.map(([id, title]) => h("a", { href: `${base}/${id}`, "aria-current": id === chosen[0] && "page" }, title)),
    ),
    body,
  );
  const view = await chosen[2]();
  if (!signal.aborted) await view.show(body, card, signal);
}

function versions(card) {
  const change = (event) => {
    location.hash = `#/models/${encodeURIComponent(card.name)}/versions/${encodeURIComponent(event.target.value)}`;
  };
  return h("label", { class: "inline" }, "version ", h("select", { onchange: change }, card.versions.map((version) => h("option", { value: version, selected: version === card.version }, version))));
}
