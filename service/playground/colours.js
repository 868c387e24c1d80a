// Colours that people tell apart however they see colours: Okabe and Ito's eight for classes, viridis for amounts.

import { clamp } from "./numbers.js";

const NAMED = { red: "#d55e00", green: "#009e73", blue: "#0072b2", orange: "#e69f00", yellow: "#f0e442", purple: "#cc79a7", pink: "#cc79a7" };
const CLASSES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#f0e442"];
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"].map(rgb);
const SIGNED = ["#0072b2", "#63a9d4", "#f4f4f2", "#e79a62", "#d55e00"].map(rgb);

/** [red, green, blue] of #rrggbb. */
export function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

/** A colour for each label; labels that are names of colours get the nearest one, so that red is not drawn blue. */
export function classColours(labels) {
  const named = labels.map((label) => NAMED[label.toLowerCase()]);
  if (named.every(Boolean) && new Set(named).size === labels.length) return named;
  return labels.map((_, i) => CLASSES[i % CLASSES.length]);
}

/** Viridis at `share`, from 0 to 1. */
export function viridis(share) {
  return between(VIRIDIS, share);
}

/** From blue over white to orange: at 0.5 there is nothing. */
export function signed(share) {
  return between(SIGNED, share);
}

function between(stops, share) {
  const at = clamp(Number.isFinite(share) ? share : 0, 0, 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((value, i) => Math.round(value + (stops[low + 1][i] - value) * (at - low)));
}

const known = new Map(); // of the theme that shows: to ask the style sheet takes a layout of the page
onTheme(() => known.clear());

/** What a colour of the style sheet is in the theme that shows, as [red, green, blue]. */
export function themed(name) {
  if (!known.has(name)) known.set(name, computed(name));
  return known.get(name);
}

function computed(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  return found;
}

export function css([red, green, blue], alpha = 1) {
  return `rgb(${red} ${green} ${blue} / ${alpha})`;
}

/** Calls `draw` whenever the theme changes, until the signal ends, if there is one. */
export function onTheme(draw, signal) {
  window.addEventListener("quartet-theme", draw, { signal });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw, { signal });
}
