"""Example calls for a served model, made from its golden rows, so that each of them really works."""

from __future__ import annotations

import json
import shlex
import sys
from typing import Any

import numpy as np

from modelrepo.tensors import Array, Tensors
from service.batch import Ran
from service.codec import tensor
from service.model import ServedModel


def golden_row(model: ServedModel) -> tuple[Tensors, Tensors]:
    """A golden row, [1, …] and without padding: inputs that a caller must give, and outputs.

    It is the first that every example can be made of: without missing values, and a text or picture where the model takes these.
    """
    rows = [_row(model, number) for number in range(model.manifest.goldens.rows)]
    finite = [row for row in rows if _is_finite(row[0])]
    return next((row for row in finite if _instance(model, row[0]) is not None), (finite or rows)[0])


def predict_request(model: ServedModel) -> dict[str, Any]:
    """A body for `/models/{model}/predict`: a text, a picture or values by column name where the model takes these."""
    inputs, _ = golden_row(model)
    instance = _instance(model, inputs)
    return {"instances": [instance]} if instance is not None else numbers_request(model)


def numbers_request(model: ServedModel) -> dict[str, Any]:
    """The same row as nothing but numbers."""
    rows = {name: _numbers(array[0]) for name, array in golden_row(model)[0].items()}
    return {"instances": [next(iter(rows.values())) if len(rows) == 1 else rows]}


def predict_body(model: ServedModel, media_type: str) -> str | None:
    """The same row as a body of another type than JSON; None where it is no text."""
    (row,) = golden_row(model)[0].values()  # a model with more inputs takes JSON alone
    return model.reader.kind.body(media_type, row[0]) if model.reader.kind else None


def predict_response(model: ServedModel) -> dict[str, Any]:
    """The answer to `predict_request`."""
    task = model.manifest.task
    output = golden_row(model)[1][task.output]
    response: dict[str, Any] = json.loads(model.predictions.encode(Ran({task.output: output}), 0, len(output)))
    return response


def infer_request(model: ServedModel) -> dict[str, Any] | None:
    """A JSON body for `/v2/models/{model}/infer`; None where every row lacks a value, as JSON has no NaN."""
    inputs, _ = golden_row(model)
    return {"inputs": [_described(name, array) for name, array in inputs.items()]} if _is_finite(inputs) else None


def infer_response(model: ServedModel) -> dict[str, Any]:
    """The answer to `infer_request`."""
    outputs = [_described(name, array) for name, array in golden_row(model)[1].items()]
    return {"model_name": model.name, "model_version": model.version, "outputs": outputs}


def copy_paste_calls(models: list[ServedModel], url: str, keyed: bool = False) -> str:
    """One row sent by curl and by tritonclient, and where the documentation is: text for a terminal.

    The row is that of the model whose example is the shortest; `keyed`: the key is taken from the variable KEY.
    """
    model = min(models, key=lambda model: len(json.dumps(predict_request(model))))
    inputs, _ = golden_row(model)
    body = json.dumps(predict_request(model))
    secured = ", ssl=True" if url.startswith("https") else ""
    lines = [
        "import numpy as np, tritonclient.http as http",
        f'client = http.InferenceServerClient("{url.split("://")[1]}"{secured})',
    ]
    names = []
    for name, array in inputs.items():
        kind = tensor.datatype(array.dtype)
        data = json.dumps(_numbers(array)).replace("NaN", "np.nan")
        lines.append(f'{name} = http.InferInput("{name}", {list(array.shape)}, "{kind}")')
        lines.append(f"{name}.set_data_from_numpy(np.array({data}, np.{array.dtype.name}))")
        names.append(name)
    task = model.manifest.task
    shown = """, headers={"Authorization": "Bearer " + os.environ["KEY"]}""" if keyed else ""
    lines.append(f'print(client.infer("{model.name}", [{", ".join(names)}]{shown}).as_numpy("{task.output}"))')
    code = "\n".join(["import os", *lines] if keyed else lines)
    shown = '-H "Authorization: Bearer $KEY" ' if keyed else ""
    return (
        f"curl:\n\ncurl -s {url}/models/{model.name}/predict {shown}-H 'Content-Type: application/json' -d {shlex.quote(body)}\n\n"
        f"Python:\n\n{sys.executable} - <<'END'\n{code}\nEND\n\n"
        f"In a browser, every model with a form to try it: {url}/docs\n"
    )


def _row(model: ServedModel, number: int) -> tuple[Tensors, Tensors]:
    """One golden row, [1, …] and without padding."""
    inputs, outputs = model.goldens
    signature = model.manifest.signature
    taken = {spec.name: inputs[spec.name][number : number + 1] for spec in signature.value_inputs}
    if signature.mask:
        real = int(inputs[signature.mask.name][number].sum())
        taken = {spec.name: spec.resized(taken[spec.name], real) for spec in signature.value_inputs}
    return taken, {name: array[number : number + 1] for name, array in outputs.items()}


def _instance(model: ServedModel, inputs: Tensors) -> Any:
    """The row in the form that people have it in, None where the model takes numbers alone or the row has no such form."""
    (row, *_) = inputs.values()
    return model.reader.kind.instance(row[0]) if model.reader.kind else None


def _is_finite(inputs: Tensors) -> bool:
    return all(bool(np.isfinite(array).all()) for array in inputs.values())


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
