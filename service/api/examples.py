"""Example calls for a served model, made from its golden rows, so that each of them really works."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec
import numpy as np

from modelrepo.tensors import Array, Tensors
from service.codec import predictions, tensor
from service.model import ServedModel


def golden_row(model: ServedModel) -> tuple[Tensors, Tensors]:
    """The first golden row, [1, …] and without padding: inputs that a caller must give, and outputs."""
    inputs, outputs = model.goldens
    signature = model.manifest.signature
    taken = {spec.name: inputs[spec.name][:1] for spec in signature.value_inputs}
    if signature.mask:
        real = int(inputs[signature.mask.name][0].sum())
        taken = {spec.name: spec.resized(taken[spec.name], real) for spec in signature.value_inputs}
    return taken, {name: array[:1] for name, array in outputs.items()}


def predict_request(model: ServedModel) -> dict[str, Any]:
    """A body for `/models/{model}/predict`."""
    rows = {name: _numbers(array[0]) for name, array in golden_row(model)[0].items()}
    return {"instances": [next(iter(rows.values())) if len(rows) == 1 else rows]}


def predict_response(model: ServedModel) -> dict[str, Any]:
    """The answer to `predict_request`."""
    task = model.manifest.task
    rows = predictions.interpret(task, golden_row(model)[1][task.output].astype(np.float64), None)
    return {"model_name": model.name, "model_version": model.version, "predictions": msgspec.to_builtins(rows)}


def infer_request(model: ServedModel) -> dict[str, Any]:
    """A JSON body for `/v2/models/{model}/infer`."""
    return {"inputs": [_described(name, array) for name, array in golden_row(model)[0].items()]}


def infer_response(model: ServedModel) -> dict[str, Any]:
    """The answer to `infer_request`."""
    outputs = [_described(name, array) for name, array in golden_row(model)[1].items()]
    return {"model_name": model.name, "model_version": model.version, "outputs": outputs}


def copy_paste_calls(models: list[ServedModel], url: str) -> str:
    """One row sent by curl and by tritonclient, and where the documentation is: text for a terminal.

    The row is that of the model whose example is the shortest.
    """
    model = min(models, key=lambda model: len(json.dumps(predict_request(model))))
    inputs = golden_row(model)[0]
    body = json.dumps(predict_request(model))
    lines = ["import numpy as np, tritonclient.http as http", f'client = http.InferenceServerClient("{url.split("://")[1]}")']
    names = []
    for name, array in inputs.items():
        kind = tensor.datatype(array.dtype)
        data = json.dumps(_numbers(array))
        lines.append(f'{name} = http.InferInput("{name}", {list(array.shape)}, "{kind}")')
        lines.append(f"{name}.set_data_from_numpy(np.array({data}, np.{array.dtype.name}))")
        names.append(name)
    task = model.manifest.task
    lines.append(f'print(client.infer("{model.name}", [{", ".join(names)}]).as_numpy("{task.output}"))')
    code = "\n".join(lines)
    return (
        f"curl:\n\ncurl -s {url}/models/{model.name}/predict -H 'Content-Type: application/json' -d '{body}'\n\n"
        f"Python:\n\n{sys.executable} - <<'END'\n{code}\nEND\n\n"
        f"In a browser, every model with a form to try it: {url}/docs\n"
    )


def _described(name: str, array: Array) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": tensor.datatype(array.dtype),
        "data": _numbers(array.ravel()),
    }


def _numbers(array: Array) -> list[Any]:
    """Numbers short enough to read; an answer changes in its last digits at most."""
    numbers: list[Any] = (array.astype(np.float64).round(4) if array.dtype.kind == "f" else array).tolist()
    return numbers
