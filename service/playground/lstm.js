// The adding problem: a sequence of numbers of which two are marked; the model says their sum. Watch it do so step by step.

import { ApiError, predict } from "./api.js";
import { LineChart, seriesColour } from "./charts.js";
import { css, onTheme, themed } from "./colours.js";
import { rowShape, valueInputs } from "./describe.js";
import { button, h, panel, say, slider, trouble } from "./dom.js";
import { gates, lookInside, ofKind, overTime, transposed } from "./internals.js";
import { Latest } from "./latest.js";
import { clamp, random } from "./numbers.js";
import { remember } from "./recent.js";

const HEIGHT = 190; // px of the sequence
const [LEFT, RIGHT] = [44, 12]; // px beside it, as beside the chart below

export function show(container, card, signal) {
  const spec = valueInputs(card)[0];
  const { min: shortest, max: longest } = rowShape(spec)[0];
  const target = card.task.targets[0];
  let seed = 1;
  let steps = made(seed, Math.round((shortest + longest) / 2)); // [{value, marked}]
  let selected = 0;

  const canvas = h("canvas", { class: "sequence", tabindex: 0, role: "application", "aria-describedby": "sequence-help" });
  const help = h("p", { class: "note", id: "sequence-help" }, "Drag a bar to change its number, click below it to mark it. Keys: left and right choose a step, up and down change it, Space marks it.");
  const reading = h("p", { class: "where", role: "status" });
  const problem = h("div");
  const noInside = h("div");
  const inside = h("div", { class: "body timeline" });
  const result = h("dl", { class: "tiles" });
  const course = new LineChart("The model's answer after each step, and the true sum so far", { height: 240 });

  const fail = (error) => {
    if (signal.aborted) return;
    if (!(error instanceof ApiError)) throw error;
    problem.replaceChildren(trouble(error));
  };
  const rows = () => steps.map(({ value, marked }) => [value, marked ? 1 : 0]);

  /** The sequence, and every beginning of it that is long enough, in one request. */
  const asked = new Latest(
    async (sequence) => {
      const beginnings = Array.from({ length: sequence.length - shortest + 1 }, (_, i) => sequence.slice(0, shortest + i));
      const [{ predictions }, found] = await Promise.all([predict(card, beginnings, { signal }), card.internals ? lookInside(card, sequence, noInside, signal) : null]);
      return { values: predictions.map((one) => one.values[target]), found };
    },
    ({ values, found }, sequence) => {
      problem.replaceChildren();
      remember(card, sequence);
      const answer = values.at(-1);
      const right = sequence.reduce((sum, [value, marked]) => sum + value * marked, 0);
      result.replaceChildren(...[["The model says", answer.toFixed(3)], ["The true sum", right.toFixed(3)], ["Off by", Math.abs(answer - right).toFixed(3)]].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
      const byStep = found ? ofKind(found, "outputs_by_step")[0]?.data.map((each) => each[0]) : undefined;
      const points = byStep ? byStep.map((value, i) => [i + 1, value]) : values.map((value, i) => [shortest + i, value]);
      const sums = sequence.map((_, i) => [i + 1, sequence.slice(0, i + 1).reduce((sum, [value, marked]) => sum + value * marked, 0)]);
      const all = [...points, ...sums].map(([, value]) => value);
      course.draw({
        series: [{ name: "true sum so far", points: sums, kind: "step", colour: seriesColour(6), dash: true }, { name: "the model's answer, if the sequence ended there", points, colour: seriesColour(0) }],
        x: { min: 0.5, max: sequence.length + 0.5, format: (step) => `step ${step}` }, y: { min: Math.min(0, ...all), max: Math.max(2, ...all) },
        marks: sequence.flatMap(([, marked], i) => (marked ? [{ at: i + 1 }] : [])),
      });
      if (!found) return;
      const layers = ofKind(found, "gates");
      const states = ofKind(found, "states");
      inside.replaceChildren(
        ...(layers.length ? [panel("Gates over time", "Every unit is a row, every step a column. A gate that is open (bright) lets through; where the forget gate is open, the past is kept.", layers.map(gates))] : []),
        ...(states.length ? [panel("What it remembers", "The states of every unit after each step: orange is positive, blue negative.", states.map((each) => h("div", { class: "layer" }, h("h3", {}, each.name), overTime(each.name, transposed(each.data), true))))] : []),
      );
    },
    fail,
  );

  const changed = () => {
    paint();
    const { value, marked } = steps[selected];
    reading.textContent = `Step ${selected + 1} of ${steps.length}: ${value.toFixed(2)}${marked ? ", marked" : ""}. Marked: ${steps.filter((step) => step.marked).length} (it learnt with two).`;
    asked.put(rows());
  };

  const paint = () => {
    const ratio = devicePixelRatio || 1;
    const width = canvas.clientWidth;
    if (!width) return;
    canvas.width = width * ratio;
    canvas.height = HEIGHT * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const [plain, strong, accent, quiet] = ["--s7", "--s2", "--accent", "--quiet"].map((name) => css(themed(name)));
    const column = (width - LEFT - RIGHT) / steps.length;
    const full = HEIGHT - 34;
    steps.forEach(({ value, marked }, i) => {
      const x = LEFT + i * column;
      context.globalAlpha = marked ? 1 : 0.55;
      context.fillStyle = marked ? strong : plain;
      context.fillRect(x + 1, 6 + full * (1 - value), Math.max(1, column - 2), Math.max(1, full * value));
      context.globalAlpha = 1;
      context.beginPath();
      context.arc(x + column / 2, HEIGHT - 14, Math.min(6, column / 2 - 1), 0, 7);
      context.lineWidth = 1.5;
      context.strokeStyle = marked ? strong : quiet;
      if (marked) context.fill();
      context.stroke();
    });
    if (document.activeElement === canvas) {
      context.strokeStyle = accent;
      context.lineWidth = 2;
      context.strokeRect(LEFT + selected * column + 1, 1, column - 2, HEIGHT - 2);
    }
    canvas.setAttribute("aria-label", `A sequence of ${steps.length} numbers; marked are ${steps.flatMap((step, i) => (step.marked ? [`step ${i + 1}: ${step.value.toFixed(2)}`] : [])).join(", ") || "none"}`);
  };

  const mark = (i) => {
    steps[i].marked = !steps[i].marked;
    say(steps[i].marked ? `step ${i + 1} marked` : `step ${i + 1} not marked`);
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [clamp(Math.floor(((event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT)) * steps.length), 0, steps.length - 1), clamp(1 - (event.clientY - box.top - 6) / (HEIGHT - 34), 0, 0.999), event.clientY - box.top];
  };
  let dragging = false;
  canvas.addEventListener("pointerdown", (event) => {
    const [i, value, y] = place(event);
    selected = i;
    if (y > HEIGHT - 28) mark(i);
    else {
      dragging = true;
      canvas.setPointerCapture(event.pointerId);
      steps[i].value = value;
    }
    changed();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!dragging) return;
    const [i, value] = place(event);
    selected = i;
    steps[i].value = value;
    changed();
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { dragging = false; });
  canvas.addEventListener("keydown", (event) => {
    const { key } = event;
    if (key === "ArrowLeft" || key === "ArrowRight") selected = clamp(selected + (key === "ArrowLeft" ? -1 : 1), 0, steps.length - 1);
    else if (key === "ArrowUp" || key === "ArrowDown") steps[selected].value = clamp(steps[selected].value + (key === "ArrowUp" ? 0.05 : -0.05), 0, 0.999);
    else if (key === " ") mark(selected);
    else return;
    event.preventDefault();
    changed();
  });
  canvas.addEventListener("focus", paint);
  canvas.addEventListener("blur", paint);
  new ResizeObserver(paint).observe(canvas);
  onTheme(paint, signal);

  const again = (length) => {
    steps = made(++seed, length);
    selected = 0;
    changed();
  };
  const lengths = slider("Length", { min: shortest, max: longest, value: steps.length }, (length) => again(length), (length) => `${length} steps`);
  container.append(
    problem,
    panel("A sequence", "The orange numbers are marked; their sum is what the model is asked for.",
      h("div", { class: "controls" }, lengths, button("New sequence", () => again(steps.length))),
      canvas, reading, help, result),
    panel("After each step", card.internals ? "What the model would answer if the sequence ended there." : `What the model answers to the sequence cut off there, from step ${shortest}, the shortest it takes; all in one request.`, course.element),
    noInside, inside,
  );
  if (!card.internals) lookInside(card, null, noInside, signal);
  changed();
}

/** Numbers from 0 to 1, one marked in each half, as the data was made. */
function made(seed, length) {
  const draw = random(seed);
  const steps = Array.from({ length }, () => ({ value: draw(), marked: false }));
  steps[Math.floor(draw() * Math.floor(length / 2))].marked = true;
  steps[Math.floor(length / 2) + Math.floor(draw() * Math.ceil(length / 2))].marked = true;
  return steps;
}
