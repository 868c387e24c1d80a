// What is served, how it fares, and how requests share batches.

import { ApiError, card as askCard, get, index } from "./api.js";
import { answers, metric, proof, serving, takes } from "./describe.js";
import { h, panel, trouble } from "./dom.js";
import { live } from "./live.js";
import { burst } from "./burst.js";
import { plural } from "./numbers.js";

export async function show(container, _, signal) {
  const [entries, server, ready] = await Promise.all([index(), get("v2", { signal }), readiness(signal)]);
  const serves = entries.filter((entry) => entry.state === "READY");
  const others = entries.filter((entry) => entry.state !== "READY");
  const cards = await Promise.all(serves.map((entry) => askCard(entry, { signal })));
  container.append(
    h("header", { class: "head" },
      h("h1", {}, serves.length ? `${plural(serves.length, "model")} ready to answer` : "No model is ready yet"),
      h("p", { class: "lead" }, ready.ok ? `Quartet ${server.version}, loaded, warmed and proven on this machine.` : `Quartet ${server.version}. ${ready.why}`),
    ),
    h("ul", { class: "cards" }, cards.map(tile), others.map(absent)),
  );
  if (cards.length) container.append(burst(cards, signal), live(cards, signal));
  else container.append(h("p", {}, "This page shows them as soon as they are: ", h("a", { href: "#/", onclick: () => location.reload() }, "look again"), "."));
}

async function readiness(signal) {
  try {
    await get("v2/health/ready", { signal });
    return { ok: true };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return { ok: false, why: error.message };
  }
}

function tile(card) {
  const way = serving(card);
  const version = card.versions.length > 1 ? `/versions/${card.version}` : "";
  return h("li", { class: `card ${card.family}` },
    h("h2", {}, h("a", { href: `#/models/${encodeURIComponent(card.name)}${version}` }, card.name), h("span", { class: "version" }, `v${card.version}`)),
    h("p", {}, `${takes(card)[0].toUpperCase()}${takes(card).slice(1)} → ${answers(card)}`),
    h("dl", {},
      h("dt", {}, "Ready"), h("dd", {}, h("i", { class: "dot ready", "aria-hidden": "true" }), `${way.precision} on ${way.provider}`),
      h("dt", {}, "Quality"), h("dd", {}, metric(card)),
      h("dt", {}, "Proof"), h("dd", {}, h("a", { href: `#/models/${encodeURIComponent(card.name)}${version}/proof` }, proof(card))),
    ),
  );
}

function absent(entry) {
  return h("li", { class: "card absent" },
    h("h2", {}, entry.name, h("span", { class: "version" }, `v${entry.version}`)),
    h("p", {}, h("i", { class: "dot", "aria-hidden": "true" }), entry.state.toLowerCase()),
    entry.reason ? trouble(new Error(entry.reason)) : null,
  );
}
