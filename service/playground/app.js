// The frame: which view shows, the list of models, theme and API key.

import { ApiError, index } from "./api.js";
import { button, field, h, s, trouble } from "./dom.js";
import { key, setKey } from "./key.js";

const main = document.getElementById("main");
const ROUTES = [
  [/^#\/functions$/, "Functions", () => import("./functions.js"), () => ({})],
  [/^#\/models\/([^/]+)(?:\/versions\/([^/]+))?(?:\/(explore|form|proof))?$/, "Model", () => import("./model.js"), ([, name, version, tab]) => ({ name: decodeURIComponent(name), version: version && decodeURIComponent(version), tab })],
  [/^(#\/)?$/, "Overview", () => import("./overview.js"), () => ({})],
];

let leaving = new AbortController();

/** Shows what the address names. `arrived` is false for the first view, which takes no focus. */
async function show(arrived = true) {
  const { hash } = location;
  if (hash && !hash.startsWith("#/")) return;
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [pattern, title, load, read] = ROUTES.find(([candidate]) => candidate.test(hash)) ?? ROUTES.at(-1);
  const parameters = read(pattern.exec(hash) ?? []);
  mark(hash, parameters.name);
  document.title = `${parameters.name ?? title} · Quartet`;
  try {
    const view = await load();
    if (signal.aborted) return;
    const container = h("div", { class: "view" });
    await view.show(container, parameters, signal);
    if (signal.aborted) return;
    main.replaceChildren(container);
    if (arrived) {
      scrollTo(0, 0);
      main.focus({ preventScroll: true });
    }
  } catch (error) {
    if (signal.aborted) return;
    main.replaceChildren(h("div", { class: "view" }, h("h1", {}, parameters.name ?? title), failure(error)));
  }
}

function failure(error) {
  if (!(error instanceof ApiError)) throw error;
  const hint = error.status === 401 || error.status === 403 ? h("p", {}, "Give your API key at the top of the page.") : null;
  return h("div", {}, trouble(error), hint, button("Try again", () => show()));
}

function mark(hash, name) {
  for (const link of document.querySelectorAll(".bar a, .models a")) {
    const at = link.getAttribute("href");
    const here = at === hash || (at === "#/" && hash === "") || (name !== undefined && at === `#/models/${encodeURIComponent(name)}`);
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** The list of models. A model whose every version fails to serve is shown with its state. */
async function list() {
  const nav = document.getElementById("models");
  let entries;
  try {
    entries = await index();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    nav.replaceChildren(h("p", { class: "quiet" }, error.status === 401 ? "The server asks for an API key." : error.message));
    return;
  }
  const names = [...new Set(entries.map((entry) => entry.name))];
  nav.replaceChildren(
    h("ul", {}, names.map((name) => {
      const ready = entries.some((entry) => entry.name === name && entry.state === "READY");
      return h("li", {}, h("a", { href: `#/models/${encodeURIComponent(name)}` }, h("i", { class: ready ? "dot ready" : "dot", "aria-hidden": "true" }), name, ready ? null : h("span", { class: "visually-hidden" }, " (not ready)")));
    })),
  );
  mark(location.hash, /^#\/models\/([^/]+)/.exec(location.hash)?.[1]);
}

function bar() {
  const brand = h("a", { class: "brand", href: "#/" }, h("img", { src: "playground/icon.svg", alt: "", width: 22, height: 22 }), "Quartet");
  const links = h("nav", { class: "pages", "aria-label": "Pages" }, h("a", { href: "#/" }, "Overview"), h("a", { href: "#/functions" }, "Functions"), h("a", { href: "docs" }, "API"));
  document.getElementById("bar").replaceChildren(brand, links, keyButton(), themeButton());
}

function keyButton() {
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false", value: key() });
  const shape = () => (key() ? "API key is set" : "API key");
  const save = (value) => {
    setKey(value.trim());
    input.value = key();
    opener.textContent = shape();
    dialog.close();
    list();
    show();
  };
  const form = h("form", { method: "dialog", onsubmit: (event) => { event.preventDefault(); save(input.value); } },
    field("API key", input, { note: "Sent as “Authorization: Bearer …” with every call, kept until this tab is closed." }),
    h("div", { class: "row" }, h("button", { class: "primary" }, "Use it"), button("Forget it", () => save("")), button("Cancel", () => dialog.close())),
  );
  const dialog = h("dialog", { class: "dialog", "aria-label": "API key" }, form);
  document.body.append(dialog);
  const opener = button(shape(), () => dialog.showModal(), { class: "plain" });
  return opener;
}

function themeButton() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const icon = s("svg", { viewBox: "0 0 20 20", width: 20, height: 20, "aria-hidden": "true" },
    s("circle", { cx: 10, cy: 10, r: 7, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }),
    s("path", { d: "M10 3a7 7 0 0 1 0 14z", fill: "currentColor" }),
  );
  const toggle = h("button", { type: "button", class: "plain icon", onclick: () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("quartet-theme", root.dataset.theme);
    name();
    window.dispatchEvent(new Event("quartet-theme"));
  } }, icon);
  const name = () => toggle.setAttribute("aria-label", dark() ? "Light theme" : "Dark theme");
  name();
  return toggle;
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", () => show());
bar();
list();
show(false);
