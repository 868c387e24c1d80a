// The service's public API, relative to the page, so that it also works below a proxy's prefix.

import { key } from "./key.js";

const BASE = new URL("./", document.baseURI);

/** What the server refused, in its own words; status 0 where it did not answer. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The absolute address of a path of the API. */
export function address(path) {
  return new URL(path, BASE).href;
}

/** The path of a model, or of one version of it. */
export function pathOf(model) {
  const versions = model.version ? `/versions/${encodeURIComponent(model.version)}` : "";
  return `models/${encodeURIComponent(model.name)}${versions}`;
}

/** The response to a call. Throws ApiError. */
export async function call(path, { method = "GET", body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (key()) sent.Authorization = `Bearer ${key()}`;
  let response;
  try {
    response = await fetch(address(path), { method, body, headers: sent, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, `no answer from ${BASE.host}: is the server running?`);
  }
  if (response.ok) return response;
  const text = await response.text();
  let message = text || response.statusText;
  try {
    message = JSON.parse(text).error ?? message;
  } catch {
    // a proxy's page, not our server's words: shown as it came
  }
  throw new ApiError(response.status, message);
}

export async function get(path, options) {
  return (await call(path, options)).json();
}

export async function post(path, value, options = {}) {
  const headers = { "Content-Type": "application/json" };
  return (await call(path, { ...options, method: "POST", body: JSON.stringify(value), headers })).json();
}

/** Every version that is known, with its state and the reason where it does not serve. */
export function index() {
  return post("v2/repository/index", {});
}

/** A model's card: task, signature, what serves it and how that was proven. */
export function card(model, options) {
  return get(`${pathOf(model)}/card`, options);
}

/** Predictions for instances. */
export function predict(model, instances, { explain = false, signal } = {}) {
  return post(`${pathOf(model)}/predict`, explain ? { instances, explain } : { instances }, { signal });
}

/** What happens inside the model for these instances. */
export function internals(model, instances, { signal } = {}) {
  return post(`${pathOf(model)}/internals`, { instances }, { signal });
}
