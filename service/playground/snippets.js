// The request of the form as a call that others can copy: curl, and Python without any library.

import { address, pathOf } from "./api.js";
import { key } from "./key.js";

/** A request: {path, type, body}, body a string, or a File of which the call names the file. */
export function curl(card, { type, body, query }) {
  const lines = [`curl -s ${quoted(url(card, query))}`, `-H ${quoted(`Content-Type: ${type}`)}`];
  if (key()) lines.push('-H "Authorization: Bearer $QUARTET_API_KEY"');
  lines.push(body instanceof File ? `--data-binary ${quoted(`@${body.name}`)}` : `--data-binary ${quoted(body)}`);
  return lines.join(" \\\n  ");
}

export function python(card, { type, body, query }) {
  const headers = { "Content-Type": type };
  const lines = ["import json", ...(key() ? ["import os"] : []), "import urllib.request", ""];
  lines.push(body instanceof File ? `body = open(${literal(body.name)}, "rb").read()` : type === "application/json" ? `body = json.dumps(${pythonic(JSON.parse(body))}).encode()` : `body = ${literal(body)}.encode()`);
  lines.push(`headers = {${Object.entries(headers).map(([name, value]) => `${literal(name)}: ${literal(value)}`).join(", ")}}`);
  if (key()) lines.push('headers["Authorization"] = "Bearer " + os.environ["QUARTET_API_KEY"]');
  lines.push(`request = urllib.request.Request(${literal(url(card, query))}, body, headers)`);
  lines.push("print(json.load(urllib.request.urlopen(request)))");
  return lines.join("\n");
}

function url(card, query) {
  return address(`${pathOf({ name: card.name, version: card.versions.length > 1 ? card.version : undefined })}/predict${query ? `?${query}` : ""}`);
}

/** For a POSIX shell. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A string of JSON is one of Python. */
function literal(text) {
  return JSON.stringify(text);
}

function pythonic(value) {
  if (Array.isArray(value)) return `[${value.map(pythonic).join(", ")}]`;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "object") return `{${Object.entries(value).map(([name, each]) => `${literal(name)}: ${pythonic(each)}`).join(", ")}}`;
  return JSON.stringify(value);
}
