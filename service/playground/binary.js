// The Open Inference Protocol with binary tensors: JSON, then the numbers as they lie in memory, little-endian.

import { call, pathOf } from "./api.js";

const HEADER = "Inference-Header-Content-Length";
const WRITERS = {
  FP32: [4, (view, at, value) => view.setFloat32(at, value, true)],
  INT64: [8, (view, at, value) => view.setBigInt64(at, BigInt(value), true)],
};

/** Answers of one request. `values`: a Float32Array for each FP32 output, by name; `shape` by name; bytes both ways. */
export async function infer(model, { name, shape, datatype, data }, output, { signal } = {}) {
  const [width, write] = WRITERS[datatype];
  const header = new TextEncoder().encode(
    JSON.stringify({
      inputs: [{ name, shape, datatype, parameters: { binary_data_size: data.length * width } }],
      outputs: [{ name: output, parameters: { binary_data: true } }],
    }),
  );
  const body = new Uint8Array(header.length + data.length * width);
  body.set(header);
  const view = new DataView(body.buffer, header.length);
  for (let i = 0; i < data.length; i++) write(view, i * width, data[i]);

  const response = await call(`v2/${pathOf(model)}/infer`, {
    method: "POST",
    body,
    headers: { "Content-Type": "application/octet-stream", [HEADER]: String(header.length) },
    signal,
  });
  const answer = await response.arrayBuffer();
  const length = Number(response.headers.get(HEADER));
  const described = JSON.parse(new TextDecoder().decode(new Uint8Array(answer, 0, length))).outputs[0];
  const numbers = new DataView(answer, length);
  const values = new Float32Array(numbers.byteLength / 4);
  for (let i = 0; i < values.length; i++) values[i] = numbers.getFloat32(i * 4, true);
  return { values, shape: described.shape, sent: body.length, received: answer.byteLength };
}
