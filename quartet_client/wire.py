"""Requests and answers as they travel: the Open Inference Protocol with its binary extension, and `predict`.

A body of the protocol is JSON, followed by the bytes of its binary tensors in the order in which the JSON names them; the header
`Inference-Header-Content-Length` says where the JSON ends. BYTES elements are 4 bytes of length and as many bytes each.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from quartet_client.answers import Array, Metadata, Outputs, Prediction, Predictions, Tensor, Value

HEADER_LENGTH = "Inference-Header-Content-Length"
JSON, BINARY = "application/json", "application/octet-stream"
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("O"),
}
"""The protocol's datatypes in NumPy."""
DATATYPES = {dtype.name: datatype for datatype, dtype in DTYPES.items()} | {"bfloat16": "BF16"}
"""The other way round, by the dtype's name; bfloat16 is ml_dtypes'."""

Headers = dict[str, str]


def infer_body(
    inputs: Mapping[str, Array],
    outputs: Sequence[str] = (),
    parameters: Mapping[str, Value] | None = None,
    binary: bool = True,
) -> tuple[Headers, bytes]:
    """Headers and body of a request for these outputs (none: all). Arrays of str or bytes become BYTES.

    `binary` is how tensors travel, both ways. Raises ValueError for an array that the protocol has no datatype for.
    """
    described: list[dict[str, Any]] = []
    chunks: list[bytes] = []
    for name, given in inputs.items():
        array = np.asarray(given)
        if array.dtype.kind in "SU":
            array = array.astype(np.object_)
        datatype = DATATYPES.get(array.dtype.newbyteorder("<").name)
        if datatype is None:
            raise ValueError(f"input {name!r} is {array.dtype}, which has no datatype in the protocol: {', '.join(DATATYPES)} do")
        tensor: dict[str, Any] = {"name": name, "shape": array.shape, "datatype": datatype}
        if binary:
            chunks.append(_to_bytes(array))
            tensor["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            elements = array.ravel().tolist()
            tensor["data"] = [_text(element) for element in elements] if datatype == "BYTES" else elements
        described.append(tensor)
    document: dict[str, Any] = {"inputs": described}
    if said := {**(parameters or {}), **({"binary_data_output": True} if binary else {})}:
        document["parameters"] = said
    if outputs:
        document["outputs"] = [{"name": name} for name in outputs]
    header = json.dumps(document).encode()
    if not binary:
        return {"Content-Type": JSON}, header
    return {"Content-Type": BINARY, HEADER_LENGTH: str(len(header))}, b"".join((header, *chunks))


def read_infer(headers: Mapping[str, str], body: bytes) -> Outputs:
    """The answer to it; names of headers are in lower case. Raises ValueError, KeyError or TypeError for what is none."""
    split = headers.get(HEADER_LENGTH.lower())
    header = int(split) if split else len(body)
    return outputs_of(json.loads(body[:header]), memoryview(body)[header:])


def outputs_of(answer: Mapping[str, Any], rest: memoryview | bytes = b"") -> Outputs:
    """The same from its JSON, and the bytes of binary tensors after it."""
    outputs: dict[str, Array] = {}
    for output in answer["outputs"]:
        dtype = DTYPES[output["datatype"]]
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            found = np.asarray(output["data"], dtype)
        else:
            found, rest = _from_bytes(memoryview(rest)[:size], dtype, output["shape"]), rest[size:]
        outputs[output["name"]] = found.reshape(output["shape"])
    # The version may be left out by servers that have none.
    return Outputs(outputs, answer.get("model_name", ""), str(answer.get("model_version", "")), answer.get("parameters") or {})


def predict_body(instances: Iterable[Any], top_k: int | None = None) -> tuple[Headers, bytes]:
    """Headers and body of a request for predictions. Arrays become lists, bytes a picture in base64."""
    document: dict[str, Any] = {"instances": [_instance(instance) for instance in instances]}
    if top_k is not None:
        document["top_k"] = top_k
    return {"Content-Type": JSON}, json.dumps(document, default=_plain).encode()


def read_predictions(body: bytes) -> Predictions:
    """The answer to it. Raises ValueError, KeyError or TypeError for what is none."""
    return predictions_of(json.loads(body))


def predictions_of(answer: Mapping[str, Any]) -> Predictions:
    """The same from its JSON."""
    return Predictions(map(_prediction, answer["predictions"]), answer.get("model_name", ""), str(answer.get("model_version", "")))


def read_metadata(document: Mapping[str, Any]) -> Metadata:
    """A model from what `GET /v2/models/{model}` answers. Raises KeyError or TypeError for what is none."""
    inputs, outputs = (
        tuple(Tensor(t["name"], t["datatype"], tuple(t["shape"]), t.get("parameters", {})) for t in document[key])
        for key in ("inputs", "outputs")
    )
    versions = tuple(document.get("versions") or ())
    return Metadata(document["name"], versions, document["platform"], inputs, outputs, document.get("parameters", {}))


def _prediction(row: Mapping[str, Any]) -> Prediction:
    chances = row.get("probabilities")
    return Prediction(
        label=row.get("label"),
        labels=tuple(row.get("labels", ())),
        probabilities=None if chances is None else {chance["label"]: chance["probability"] for chance in chances},
        values=row.get("values"),
    )


def _instance(instance: Any) -> Any:
    return {"b64": base64.b64encode(instance).decode()} if isinstance(instance, bytes) else instance


def _plain(value: Any) -> Any:
    """What JSON does not know: arrays and numbers of NumPy's, inside of whatever was given."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"an instance holds {type(value).__name__}, which JSON does not carry")


def _to_bytes(array: Array) -> bytes:
    """Little-endian and row by row."""
    if array.dtype == np.object_:
        elements = [element if isinstance(element, bytes) else _text(element).encode() for element in array.ravel().tolist()]
        return b"".join(struct.pack("<I", len(element)) + element for element in elements)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _from_bytes(data: memoryview, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
    if dtype != np.object_:
        return np.frombuffer(data, dtype)
    elements = np.empty(math.prod(shape), np.object_)
    at = 0
    for position in range(len(elements)):
        length = int.from_bytes(data[at : at + 4], "little")
        elements[position] = bytes(data[at + 4 : at + 4 + length])
        at += 4 + length
    if at != len(data):
        raise ValueError(f"{len(elements)} BYTES elements take {at} bytes, and there are {len(data)}")
    return elements


def _text(element: Any) -> str:
    if isinstance(element, bytes):
        return element.decode()
    if isinstance(element, str):
        return element
    raise ValueError(f"an array of objects holds {type(element).__name__}; it takes str and bytes")
