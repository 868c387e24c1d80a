// Lines, columns and bars in SVG, drawn for the width they get. Colours are those of the style sheet, so themes need no redrawing.

import { h, s } from "./dom.js";
import { clamp, short, ticks } from "./numbers.js";

const SERIES = ["--s1", "--s2", "--s3", "--s4", "--s5", "--s6", "--s7"];

/** The colour of series `i`, for CSS. */
export function seriesColour(i) {
  return `var(${SERIES[i % SERIES.length]})`;
}

class Chart {
  /** `label` is what the chart shows, for those who do not see it; `height` in pixels. */
  constructor(label, height) {
    this.height = height;
    this.svg = s("svg", { class: "chart", height, role: "img", "aria-label": label });
    this.legend = h("ul", { class: "legend", hidden: true });
    this.element = h("figure", { class: "figure" }, this.legend, this.svg);
    this.width = 0;
    new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (width === this.width || !width) return;
      this.width = width;
      if (this.data) this.paint();
    }).observe(this.element);
  }

  draw(data) {
    this.data = data;
    if (this.width) this.paint();
  }

  describe(label) {
    this.svg.setAttribute("aria-label", label);
  }

  /** Empties the picture and draws its axes; gives the functions from numbers to pixels. */
  frame({ x, y }, left = 44) {
    const { width, height } = this;
    const [right, top, bottom] = [12, 10, x.title || x.labels !== false ? 30 : 12];
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren();
    const toX = (value) => left + ((value - x.min) / (x.max - x.min || 1)) * (width - left - right);
    const toY = (value) => height - bottom - ((value - y.min) / (y.max - y.min || 1)) * (height - top - bottom);
    for (const value of ticks(y.min, y.max, Math.max(2, height / 55))) {
      this.svg.append(
        s("line", { class: "grid", x1: left, x2: width - right, y1: toY(value), y2: toY(value) }),
        s("text", { class: "tick-y", x: left - 6, y: toY(value) + 4 }, (y.format ?? short)(value)),
      );
    }
    if (x.labels !== false) {
      for (const value of x.ticks ?? ticks(x.min, x.max, Math.max(3, width / 80))) {
        this.svg.append(s("text", { class: "tick-x", x: toX(value), y: height - bottom + 16 }, (x.format ?? short)(value)));
      }
    }
    if (y.title) this.svg.append(s("text", { class: "axis-title", x: left, y: 9 }, y.title));
    this.svg.append(s("line", { class: "axis", x1: left, x2: width - right, y1: toY(Math.max(0, y.min)), y2: toY(Math.max(0, y.min)) }));
    return { toX, toY, left, right: width - right, top, bottom: height - bottom };
  }

  explain(series) {
    const named = series.filter((one) => one.name);
    this.legend.hidden = named.length < 2;
    this.legend.replaceChildren(
      ...named.map((one) => h("li", {}, h("i", { class: `swatch ${one.kind ?? "line"} ${one.dash ? "dashed" : ""}`, style: { color: one.colour } }), one.name)),
    );
  }
}

/** Series over numbers. A series: {name, colour, points: [[x, y]], kind: line (default), step, dots or area, dash}. */
export class LineChart extends Chart {
  constructor(label, { height = 220 } = {}) {
    super(label, height);
  }

  paint() {
    const { series, x, y, marks = [] } = this.data;
    const { toX, toY, left, right, top, bottom } = this.frame({ x, y });
    this.scale = { left, right, top, bottom };
    for (const { at, label } of marks) {
      this.svg.append(s("line", { class: "mark", x1: toX(at), x2: toX(at), y1: top, y2: bottom }));
      if (label) this.svg.append(s("text", { class: "mark-label", x: toX(at) + 4, y: top + 10 }, label));
    }
    const inside = (value) => clamp(value, y.min - (y.max - y.min), y.max + (y.max - y.min));
    const clip = s("svg", { x: left - 4, y: top - 4, width: right - left + 8, height: bottom - top + 8, viewBox: `${left - 4} ${top - 4} ${right - left + 8} ${bottom - top + 8}` });
    this.svg.append(clip);
    for (const { points, colour, kind = "line", dash } of series) {
      const real = points.filter(([, value]) => Number.isFinite(value)).map(([a, b]) => [toX(a), toY(inside(b))]);
      if (!real.length) continue;
      if (kind === "dots") {
        for (const [cx, cy] of real) clip.append(s("circle", { cx, cy, r: 3.5, style: { fill: colour } }));
        continue;
      }
      let path = `M${real[0][0]},${real[0][1]}`;
      for (let i = 1; i < real.length; i++) path += kind === "step" ? `H${real[i][0]}V${real[i][1]}` : `L${real[i][0]},${real[i][1]}`;
      if (kind === "area") {
        const floor = toY(Math.max(0, y.min));
        clip.append(s("path", { class: "area", d: `${path}L${real.at(-1)[0]},${floor}L${real[0][0]},${floor}Z`, style: { fill: colour } }));
      }
      clip.append(s("path", { class: dash ? "line dashed" : "line", d: path, style: { stroke: colour } }));
    }
    this.explain(series);
  }

  /** Where the pointer is, as [x, y] of the axes. */
  locate(event) {
    const { left, right, top, bottom } = this.scale;
    const { x, y } = this.data;
    const box = this.svg.getBoundingClientRect();
    const across = (clamp(event.clientX - box.left, left, right) - left) / (right - left);
    const up = (bottom - clamp(event.clientY - box.top, top, bottom)) / (bottom - top);
    return [x.min + across * (x.max - x.min), y.min + up * (y.max - y.min)];
  }
}

/** Columns side by side. Data: {labels, values, colour, y: {title, format}, note}. */
export class ColumnChart extends Chart {
  constructor(label, { height = 150 } = {}) {
    super(label, height);
  }

  paint() {
    const { labels, values, colour = seriesColour(0), title } = this.data;
    const most = Math.max(...values, 1);
    const y = { min: 0, max: most * 1.08, title };
    const { left, right, bottom, toY } = this.frame({ x: { min: 0, max: 1, labels: false, title: "x" }, y });
    const step = (right - left) / values.length;
    const every = Math.ceil((Math.max(...labels.map((label) => label.length)) * 7 + 8) / step);
    values.forEach((value, i) => {
      const x = left + i * step;
      if (value) {
        const height = Math.max(1.5, bottom - toY(value));
        this.svg.append(s("rect", { x: x + 1, width: Math.max(1, step - 2), y: bottom - height, height, rx: 1.5, style: { fill: colour } }, s("title", {}, `${labels[i]}: ${short(value)}`)));
      }
      if (i % every === 0) this.svg.append(s("text", { class: "tick-x", x: x + step / 2, y: bottom + 16 }, labels[i]));
    });
  }
}

/** Probabilities as bars, which keep their order and their place: set([[label, share], …]). */
export class Bars {
  constructor(label, { colours, limit } = {}) {
    this.element = h("ul", { class: "bars", "aria-label": label });
    this.colours = colours;
    this.limit = limit;
    this.rows = new Map();
  }

  set(shares, { keepOrder = true } = {}) {
    const order = keepOrder ? shares : [...shares].sort((a, b) => b[1] - a[1]);
    const shown = order.slice(0, this.limit ?? order.length);
    const best = shown.reduce((a, b) => (b[1] > a[1] ? b : a), shown[0])?.[0];
    const names = shown.map(([label]) => label);
    if (names.join("\n") !== [...this.rows.keys()].join("\n")) {
      this.rows = new Map(names.map((name, i) => [name, this.row(name, i)]));
      this.element.replaceChildren(...[...this.rows.values()].map((row) => row.element));
    }
    for (const [label, share] of shown) {
      const row = this.rows.get(label);
      row.fill.style.width = `${clamp(share, 0, 1) * 100}%`;
      row.number.textContent = share >= 0.9995 || share < 0.0005 ? `${(share * 100).toFixed(0)} %` : `${(share * 100).toFixed(1)} %`;
      row.element.classList.toggle("best", label === best);
    }
  }

  clear() {
    for (const row of this.rows.values()) {
      row.fill.style.width = "0";
      row.number.textContent = "–";
      row.element.classList.remove("best");
    }
  }

  row(label, i) {
    const colour = this.colours?.[i];
    const fill = h("span", { class: "fill", style: colour ? { background: colour } : {} });
    const number = h("span", { class: "number" });
    return { fill, number, element: h("li", {}, h("span", { class: "name", title: label }, label), h("span", { class: "track" }, fill), number) };
  }
}
