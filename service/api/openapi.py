"""The OpenAPI document: FastAPI's own routes, and both inference paths of every served model with its types and examples."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from modelrepo.tasks import Multiclass, Regression
from modelrepo.tensors import ShapeRange, TensorSpec
from service.api import examples, internals
from service.codec import tensor
from service.keys.demand import demand
from service.model import ServedModel
from service.registry import Registry

Schema = dict[str, Any]

ERRORS = {
    "400": "Not the protocol: broken JSON, a missing key, a wrong datatype or shape",
    "401": "No key, or none that is known",
    "403": "This server takes no orders about its models from here, or not with this key",
    "404": "No such model or version",
    "409": "An order that does not fit how things stand",
    "413": "More bytes or rows than are taken at once",
    "415": "A kind or encoding of body that is not taken",
    "422": "The model cannot take these values, or what was to be loaded cannot be",
    "429": "Too much is waiting, or the key's limits are reached; see Retry-After",
    "503": "Loading, shutting down, or too much is waiting",
    "504": "Accepted, and not answered within the timeout",
}
ORDERS = ("/load", "/unload", "/rollout/start", "/rollout/change", "/rollout/promote", "/rollout/rollback")
INFERENCE = ("400", "404", "413", "415", "422", "429", "503", "504")


def install(app: FastAPI, registry: Registry, keyed: bool = False) -> None:
    """Make `app` describe the models that `registry` serves at the moment it is asked; `keyed`: each path asks for a key."""

    def document() -> Schema:
        described = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        schemas = described.setdefault("components", {}).setdefault("schemas", {})
        schemas["Error"] = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
        _own_errors(described)
        # Of several versions the newest: that is the one which answers where a path names none.
        for model in {model.name: model for model in sorted(registry.models(), key=lambda model: int(model.version))}.values():
            described["paths"][f"/models/{model.name}/predict"] = {"post": _predict(model)}
            described["paths"][f"/v2/models/{model.name}/infer"] = {"post": _infer(model)}
            if model.manifest.internals is not None:
                described["paths"][f"/models/{model.name}/internals"] = {"post": internals.described(model, _predict(model))}
        if keyed:
            _ask_for_keys(described)
        return described

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _ask_for_keys(described: Schema) -> None:
    """The key, as a form in the documentation takes it, and the answers without a good one."""
    described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for name, path in described["paths"].items():
        for method, operation in path.items():
            if demand(method.upper(), name) is not None:
                operation["security"] = [{"key": []}]
                operation["responses"] |= {status: _error(status) for status in ("401", "403", "429")}


def _own_errors(described: Schema) -> None:
    """FastAPI announces its own 422 body for every parameter; ours is `{"error": …}`, and 400."""
    for name, path in described["paths"].items():
        for operation in path.values():
            operation["responses"].pop("422", None)
            if "requestBody" in operation:
                operation["responses"] |= {status: _error(status) for status in ("400", "413", "415")}
            if "{model}" in name:
                operation["responses"]["404"] = _error("404")
            if name.endswith(ORDERS):
                operation["responses"] |= {status: _error(status) for status in ("403", "409", "422")}
            if "{model}" in name or name.endswith("/ready"):
                operation["responses"]["503"] = _error("503")
    for name in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(name, None)


def _predict(model: ServedModel) -> Schema:
    specs = model.manifest.signature.value_inputs
    rows = {spec.name: _nested(spec, spec.shape[1:]) for spec in specs}
    instance = next(iter(rows.values())) if len(rows) == 1 else {"type": "object", "properties": rows, "required": list(rows)}
    kind = model.reader.kind
    options: Schema = {"explain": {"type": "boolean", "description": "say how the answer came about"}}
    if not isinstance(model.manifest.task, Regression):
        options = {"top_k": {"type": "integer", "minimum": 1, "description": "list only the likeliest labels"}, **options}
    request: Schema = {
        "type": "object",
        "properties": {
            "instances": {"type": "array", "items": {"anyOf": [kind.schema, instance]} if kind else instance, "minItems": 1},
            **{name: _or_null(schema) for name, schema in options.items()},
        },
        "required": ["instances"],
        "additionalProperties": False,
        "example": examples.predict_request(model),
    }
    response = {
        "type": "object",
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "predictions": {"type": "array", "items": _prediction(model)},
            "explanation": {"type": "object", "additionalProperties": {"type": ["string", "number"]}},
        },
        "required": ["model_name", "model_version", "predictions"],
        "example": examples.predict_response(model),
    }
    described = _operation(model, "Predict", "Instances in, answers out", request, response)
    for media_type, schema in (kind.media_types if kind else {}).items():
        body = examples.predict_body(model, media_type)
        described["requestBody"]["content"][media_type] = {"schema": schema if body is None else {**schema, "example": body}}
    described["parameters"] = [{"name": name, "in": "query", "schema": schema} for name, schema in options.items()]
    return described


def _prediction(model: ServedModel) -> Schema:
    task = model.manifest.task
    if isinstance(task, Regression):
        return _object({"values": _object({target: {"type": "number"} for target in task.targets})})
    label = {"type": "string", "enum": list(task.labels)}
    ranked = {"type": "array", "items": _object({"label": label, "probability": {"type": "number", "minimum": 0, "maximum": 1}})}
    if isinstance(task, Multiclass) or task.type == "binary":
        return _object({"label": label, "probabilities": ranked})
    return _object({"labels": {"type": "array", "items": label}, "probabilities": ranked})


def _infer(model: ServedModel) -> Schema:
    signature = model.manifest.signature
    parameters: Schema = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}

    def described(spec: TensorSpec) -> Schema:
        return {
            "type": "object",
            "description": spec.description,
            "properties": {
                "name": {"const": spec.name},
                "shape": {"type": "array", "items": {"type": "integer"}, "description": f"{spec.wire_shape}, -1 is any size"},
                "datatype": {"const": tensor.datatype(spec.dtype)},
                "parameters": _or_null(parameters),
                "data": {"type": "array", "items": {}, "description": "row-major, flat or nested"},
            },
            "required": ["name", "shape", "datatype"],
        }

    request = {
        "type": "object",
        "properties": {
            "id": {"type": ["string", "null"]},
            "parameters": _or_null(parameters),
            "inputs": {"type": "array", "items": {"anyOf": [described(spec) for spec in signature.inputs]}, "minItems": 1},
            "outputs": {
                "type": ["array", "null"],
                "items": {
                    "type": "object",
                    "properties": {"name": {"enum": [spec.name for spec in signature.outputs]}, "parameters": _or_null(parameters)},
                    "required": ["name"],
                },
            },
        },
        "required": ["inputs"],
    }
    if (example := examples.infer_request(model)) is not None:
        request["example"] = example
    response = {
        "type": "object",
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"anyOf": [described(spec) for spec in signature.outputs]}},
        },
        "example": examples.infer_response(model),
    }
    return _operation(model, "Infer", "Tensors in, tensors out (Open Inference Protocol)", request, response)


def _operation(model: ServedModel, verb: str, summary: str, request: Schema, response: Schema) -> Schema:
    return {
        "tags": [model.name],
        "summary": summary,
        "operationId": f"{verb.lower()}_{model.name}",
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": {"description": "The answer", "content": {"application/json": {"schema": response}}},
            **{status: _error(status) for status in INFERENCE},
        },
    }


def _error(status: str) -> Schema:
    return {
        "description": ERRORS[status],
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }


def _nested(spec: TensorSpec, dims: tuple[int | ShapeRange, ...]) -> Schema:
    """One row of an input as nested arrays."""
    if not dims:
        number: Schema = {"type": "boolean" if spec.dtype == "bool" else "number" if "float" in spec.dtype else "integer"}
        if spec.dtype in ("float16", "float32"):  # a double is read; what rounds to infinity is refused
            info = np.finfo(spec.numpy_dtype)
            overflow = float(info.max) + 2.0 ** (info.maxexp - info.nmant - 2)
            number |= {"exclusiveMinimum": -overflow, "exclusiveMaximum": overflow}
        if spec.bounds:
            number |= {"minimum": spec.bounds.min, "maximum": spec.bounds.max}
        return number
    low, high = (dims[0].min, dims[0].max) if isinstance(dims[0], ShapeRange) else (dims[0], dims[0])
    return {"type": "array", "items": _nested(spec, dims[1:]), "minItems": low, "maxItems": high}


def _or_null(schema: Schema) -> Schema:
    """Clients that serialise what they leave empty send null."""
    return {**schema, "type": [schema["type"], "null"]}


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}
