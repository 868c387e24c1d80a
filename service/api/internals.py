"""What happens inside a model: feature maps, gates, attention, from the version's explain.onnx.

`POST /models/{model}[/versions/{version}]/internals`     instances in, as in `predict`; predictions and internals out

It is for people who look at a few rows: it goes past the batcher, one request after the other, and its answer is bounded.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from modelrepo.internals import Internal
from modelrepo.tensors import Array, Tensors
from service.api import examples
from service.batch import Ran
from service.codec.reader import JSON
from service.errors import InvalidRequest, PayloadTooLarge, UnknownModel
from service.model import ServedModel
from service.registry import Registry

Schema = dict[str, Any]

MOST_INSTANCES = 16
MOST_NUMBERS = 2_000_000  # in one answer: some 20 MB of JSON
PIECE = 2_048  # numbers that become JSON in a tenth of a millisecond
PAUSE = 2e-4  # seconds between pieces


def router(registry: Registry) -> APIRouter:
    """The endpoint, over the models of `registry`. The OpenAPI document has it by model: see `described`."""
    api = APIRouter()

    @api.post("/models/{model}/versions/{version}/internals", include_in_schema=False)
    @api.post("/models/{model}/internals", include_in_schema=False)
    async def internals(http: Request, model: str, version: str | None = None) -> Response:
        served = registry.get(model, version)
        chosen, query = _chosen(served, http.url.query)
        read = await asyncio.to_thread(served.reader.decode, await http.body(), JSON, query, _most(served))
        if read.explain:
            raise InvalidRequest("explain tells how a batch was made, which there is none of here: leave it out")
        inputs, rows, length = served.checked(read.inputs)
        numbers = sum(internal.numbers(rows, length or 0) for internal in chosen)
        if numbers > MOST_NUMBERS:
            raise PayloadTooLarge(
                f"the answer would have up to {numbers} numbers; at most {MOST_NUMBERS} are given at once: send fewer or shorter "
                f"instances, or say which you want: ?names={chosen[0].name}"
            )
        with served.called():
            outputs = await served.explainer.explain(inputs, [internal.name for internal in chosen])
        mask = served.manifest.signature.mask
        lengths = None if mask is None else inputs[mask.name].sum(axis=1).tolist()
        return Response(await asyncio.to_thread(_encoded, served, outputs, chosen, read.top_k, lengths), media_type=JSON)

    return api


def _most(served: ServedModel) -> int:
    """Instances that are taken at once: what one batch holds, and no more than people look at."""
    return min(MOST_INSTANCES, served.manifest.signature.batch.max)


def _chosen(served: ServedModel, query: str) -> tuple[list[Internal], str]:
    """The internals that the parameter `names` asks for, all where it is left out, and the rest of the query.

    Raises UnknownModel where the version has none, InvalidRequest for names it does not have.
    """
    shown = served.manifest.internals
    if shown is None:
        raise UnknownModel(
            f"model {served.name!r} version {served.version} has no explain.onnx with feature maps, gates or attention: an MLP has "
            "none of these; export any other again, without --no-internals"
        )
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=10)
    except ValueError:
        raise InvalidRequest("the query has more than 10 parameters; names and top_k are all there are") from None
    known = {internal.name: internal for internal in shown.outputs}
    wanted = [name for key, value in pairs if key == "names" for name in value.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise InvalidRequest(f"names has {unknown[0][:100]!r}; this model shows {', '.join(known)}")
    chosen = [known[name] for name in dict.fromkeys(wanted)] or list(known.values())
    return chosen, urlencode([(key, value) for key, value in pairs if key != "names"])


def _encoded(served: ServedModel, outputs: Tensors, chosen: list[Internal], top_k: int | None, lengths: list[int] | None) -> bytes:
    """The response's body: what `predict` answers for the same outputs, and more keys behind it."""
    rows = len(outputs[served.manifest.task.output])
    predictions = served.predictions.encode(Ran(outputs), 0, rows, top_k)
    steps = b"" if lengths is None else b',"lengths":' + orjson.dumps(lengths)
    shown = [_shown(internal, outputs[internal.name]) for internal in chosen]
    return b'%s%s,"internals":[%s]}' % (predictions[:-1], steps, b",".join(shown))


def _shown(internal: Internal, array: Array) -> bytes:
    facts = {
        "name": internal.name,
        "kind": internal.kind,
        "layer": internal.layer,
        "axes": internal.axes,
        "labels": internal.labels,
        "description": internal.description,
        "shape": array.shape,
    }
    return b'%s,"data":%s}' % (orjson.dumps(facts)[:-1], _nested(np.ascontiguousarray(array)))


def _nested(array: Array) -> bytes:
    """The numbers as JSON, a piece at a time: while one is written, the event loop waits for the interpreter."""
    if array.ndim == 1 or array.size <= PIECE:
        return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    if array[0].size > PIECE:
        return b"[%s]" % b",".join([_nested(part) for part in array])
    pieces = []
    at_once = PIECE // array[0].size
    for start in range(0, len(array), at_once):
        pieces.append(orjson.dumps(array[start : start + at_once], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
        time.sleep(PAUSE)
    return b"[%s]" % b",".join(pieces)


def described(model: ServedModel, predict: Schema) -> Schema:
    """The operation in the OpenAPI document, made from that of `predict`."""
    shown = model.manifest.internals
    assert shown is not None  # else it is not in the document
    content = predict["requestBody"]["content"][JSON]["schema"]
    answer = predict["responses"]["200"]["content"][JSON]["schema"]
    names = [internal.name for internal in shown.outputs]
    one = {
        "type": "object",
        "properties": {
            "name": {"enum": names},
            "kind": {"enum": sorted({internal.kind for internal in shown.outputs})},
            "layer": {"type": ["integer", "null"], "description": "counted from 0; null for the model as a whole"},
            "axes": {"type": "array", "items": {"type": "string"}},
            "labels": {"type": "object", "description": "names along an axis", "additionalProperties": {"type": "array"}},
            "description": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array", "items": {}, "description": "numbers, nested like the shape"},
        },
        "required": ["name", "kind", "layer", "axes", "labels", "description", "shape", "data"],
    }
    properties = {
        **{name: schema for name, schema in answer["properties"].items() if name != "explanation"},
        "internals": {"type": "array", "items": one},
    }
    if model.manifest.signature.mask:
        steps = {"type": "array", "items": {"type": "integer"}, "description": "steps of each instance; beyond them data is 0"}
        properties["lengths"] = steps
    instances = {**content["properties"]["instances"], "maxItems": _most(model)}
    request = {
        **content,
        "properties": {"instances": instances, **{k: v for k, v in content["properties"].items() if k == "top_k"}},
        "example": examples.predict_request(model),
    }
    response = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        **predict,
        "summary": "Instances in, answers and what happened inside out",
        "description": "For looking at a few rows: computed in fp32 on the CPU beside what serves, one request after the other.",
        "operationId": f"internals_{model.name}",
        "parameters": [
            {
                "name": "names",
                "in": "query",
                "description": "which to show, parted by commas; left out, all",
                "schema": {"type": "string"},
                "example": names[0],
            },
            *(parameter for parameter in predict["parameters"] if parameter["name"] == "top_k"),
        ],
        "requestBody": {"required": True, "content": {JSON: {"schema": request}}},
        "responses": {**predict["responses"], "200": {"description": "The answer", "content": {JSON: {"schema": response}}}},
    }
