"""How a server is asked and how it answers: rows to a whole HTTP request, a response to whether it is right."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from loadtests.calls import Response, infer_request, post
from modelrepo.tasks import Binary, Multiclass, Task
from modelrepo.tensors import Array, Tensors
from quartet_client.wire import DATATYPES, DTYPES

Kind = Literal["instances", "labels", "v2", "v2-binary", "constant"]


@dataclass(frozen=True)
class Interface:
    """`instances` is `{"instances": […]}` to rows of outputs, `labels` the same to labels and probabilities, as Quartet answers;
    `v2` the Open Inference Protocol in JSON, `v2-binary` with the bytes of tensors both ways; `constant` takes anything.
    """

    kind: Kind
    path: str

    def request(self, inputs: Tensors) -> bytes:
        """A POST for these rows, all of one length, or several lengths under a mask."""
        if self.kind in ("v2", "v2-binary"):
            inputs = {name: array for name, array in inputs.items() if name != "mask" or not array.all()}
        match self.kind:
            case "v2-binary":
                return infer_request(self.path.split("/")[3], inputs, binary=True)
            case "v2":
                tensors = [
                    {"name": name, "shape": array.shape, "datatype": DATATYPES[array.dtype.name], "data": _plain(array.ravel())}
                    for name, array in inputs.items()
                ]
                body: dict[str, Any] = {"inputs": tensors}
            case _:
                body = {"instances": instances(inputs)}
        return post(self.path, json.dumps(body, separators=(",", ":")).encode())

    def fault(self, response: Response, expected: Array, task: Task, tolerance: float) -> str | None:
        """What is wrong with a response, None where it is right: ONNX Runtime's outputs within `tolerance` of `expected`."""
        if response.status != 200:
            return f"status {response.status}: {response.body[:200].decode(errors='replace')}"
        try:
            match self.kind:
                case "constant":
                    return None
                case "labels":
                    found, expected = _probabilities(json.loads(response.body), task), probabilities(expected, task)
                case "instances":
                    found = np.asarray(_rows(json.loads(response.body)), np.float64)
                case _:
                    found = _first_output(response)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            return f"200 with a body that is no answer ({type(error).__name__}: {error}): {response.body[:200]!r}"
        if found.shape != expected.shape:
            return f"answered {list(found.shape)} numbers, not {list(expected.shape)}"
        off = float(np.abs(found - expected).max())
        return None if off <= tolerance else f"answered wrongly: {off:.2g} away from ONNX Runtime, {tolerance:g} is allowed"


def instances(inputs: Tensors) -> list[Any]:
    """Rows as a caller writes them: whole numbers without a point, sequences at their own length."""
    name = next(name for name in inputs if name != "mask")
    rows: list[Any] = _plain(inputs[name])
    if "mask" in inputs:
        return [row[:length] for row, length in zip(rows, inputs["mask"].sum(axis=1).tolist(), strict=True)]
    return rows


def probabilities(logits: Array, task: Task) -> Array:
    """What a classifier's outputs [N, outputs] mean: the probability of each label [N, labels]."""
    assert isinstance(task, Multiclass | Binary)
    scaled = logits.astype(np.float64) / task.temperature
    if isinstance(task, Binary):
        scaled = np.concatenate([np.zeros_like(scaled), scaled], axis=1)
    chances: Array = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    return chances


def _plain(array: Array) -> list[Any]:
    numbers: list[Any]
    if array.dtype == bool:
        numbers = array.tolist()
    elif not np.issubdtype(array.dtype, np.floating) or (array == np.rint(array)).all():
        numbers = array.astype(np.int64).tolist()
    else:
        numbers = np.round(array.astype(np.float64), 4).tolist()  # the data has four decimals; float32 has more as text
    return numbers


def _rows(answer: Any) -> Any:
    return answer["predictions"] if isinstance(answer, dict) else answer


def _probabilities(answer: Any, task: Task) -> Array:
    assert isinstance(task, Multiclass | Binary)
    rows = []
    for prediction in answer["predictions"]:
        chances = {entry["label"]: entry["probability"] for entry in prediction["probabilities"]}
        if prediction["label"] != max(chances, key=lambda label: chances[label]):
            raise ValueError(f"label {prediction['label']!r} is not the likeliest")
        rows.append([chances[label] for label in task.labels])
    return np.asarray(rows, np.float64)


def _first_output(response: Response) -> Array:
    split = response.headers.get("inference-header-content-length")
    header = int(split) if split else len(response.body)
    output = json.loads(response.body[:header])["outputs"][0]
    dtype = DTYPES[output["datatype"]]
    size = output.get("parameters", {}).get("binary_data_size")
    flat = np.asarray(output["data"], dtype) if size is None else np.frombuffer(response.body[header : header + size], dtype)
    return flat.reshape(output["shape"])
