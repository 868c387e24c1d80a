// Elements from calls: h("p", {class: "note", onclick: …}, "text", child). No HTML is ever parsed.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Properties named on… are listeners, `style` is an object, others are attributes; null, undefined and false leave one out. */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** An SVG element. */
export function s(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") Object.assign(element.style, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "hidden" || name === "indeterminate") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A function that calls `work` before the next picture is drawn: once, however often it was called by then. */
export function perFrame(work) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      work();
    });
  };
}

/** What assistive technology says next. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

let labels = 0;

/** A control with its label: field("Length", input). `note` stands below it. */
export function field(label, control, { note, wide = false } = {}) {
  control.id ||= `field-${++labels}`;
  const below = note ? h("small", { id: `${control.id}-note` }, note) : null;
  if (below) control.setAttribute("aria-describedby", below.id);
  return h("div", { class: wide ? "field wide" : "field" }, h("label", { for: control.id }, label), control, below);
}

/** A choice among a few values: choice("Pen", {fine: 1, broad: 4}, 1, (value) => …). */
export function choice(label, values, chosen, onchange) {
  const name = `choice-${++labels}`;
  const options = Object.entries(values).map(([text, value]) =>
    h("label", {}, h("input", { type: "radio", name, checked: value === chosen, onchange: () => onchange(value) }), h("span", {}, text)),
  );
  return h("fieldset", { class: "choice" }, h("legend", {}, label), h("div", { class: "options" }, options));
}

/** A tick box with its label. */
export function tick(label, checked, onchange) {
  return h("label", { class: "tick" }, h("input", { type: "checkbox", checked, onchange: (event) => onchange(event.target.checked) }), label);
}

/** A slider that shows its value: slider("Length", {min, max, step, value}, (value) => …, (value) => text). */
export function slider(label, { min, max, step = 1, value }, oninput, show = String) {
  const shown = h("output", {}, show(value));
  const input = h("input", { type: "range", min, max, step, value: String(value) });
  const change = () => {
    shown.textContent = show(input.valueAsNumber);
    input.setAttribute("aria-valuetext", shown.textContent);
    oninput(input.valueAsNumber);
  };
  input.addEventListener("input", change);
  const element = field(label, input);
  element.classList.add("slider");
  element.append(shown);
  element.set = (number) => {
    input.value = String(number);
    shown.textContent = show(input.valueAsNumber);
  };
  return element;
}

/** A button. */
export function button(text, onclick, properties = {}) {
  return h("button", { type: "button", onclick, ...properties }, text);
}

/** A panel: a section with a heading, an optional line of explanation, and content. */
export function panel(title, note, ...children) {
  const id = `panel-${++labels}`;
  return h("section", { class: "panel", "aria-labelledby": id }, h("h2", { id }, title), note ? h("p", { class: "note" }, note) : null, children);
}

/** An error as the server words it. */
export function trouble(error) {
  return h("p", { class: "trouble", role: "alert" }, error.status ? h("strong", {}, `${error.status} `) : null, error.message);
}
