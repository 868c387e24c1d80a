"""What a running server says about its models, and requests made from that alone.

Names, datatypes and shapes come from `GET /v2/models/{model}`; limits of the values, the other kinds of body and an example that
works from the OpenAPI document. What is right is what the server answers in a calm moment.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import logging
import random
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.error import HTTPError

import numpy as np
from PIL import Image

from loadtests.calls import Call, Response, error_of, infer_request, post, predict_request, read_answer, taken_apart
from modelrepo.errors import QuartetError
from modelrepo.tensors import Array, Tensors
from quartet_client import Client, ClientError, Metadata
from quartet_client.wire import DTYPES

log = logging.getLogger("loadtests")

VARIANTS = 8  # of each kind of request for a model, its example among them
WORDS = ("a", "film", "that", "was", "long", "but", "good", "and", "whose", "end", "made", "up", "for", "its", "slow", "story")
SMALLEST_TOLERANCE = 1e-3  # a share of the largest value: what float32 loses in batches of different sizes, and more
UNPROVEN_TOLERANCE = 1e-2  # where nobody measured how far the served precision is from PyTorch
NO_ANSWER = 30.0  # seconds


class NotServed(QuartetError):
    """What was asked for cannot be asked of this server."""


@dataclass(frozen=True)
class Input:
    """An input that a caller must give: `shape` [-1, …], where a later -1 is the length; `values` is the schema of one number."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    values: dict[str, Any]
    lengths: tuple[int, int]
    """Shortest and longest; (1, 1) for what is no sequence."""
    example: Array | None
    """The example row [1, …]; None where the document has none."""

    def row(self, random: np.random.Generator, length: int) -> Array:
        """A row [1, …] of values that the schema allows, near those of the example where it sets no limits."""
        shape = [1, *(length if size == -1 else size for size in self.shape[1:])]
        if self.dtype.kind == "b":
            return random.integers(0, 2, shape).astype(self.dtype)
        if self.dtype.kind in "iu":
            least, most = self._range(0, 1)
            return random.integers(int(least), int(most), shape, endpoint=True).astype(self.dtype)
        return random.uniform(*self._range(-1, 1), shape).astype(self.dtype)

    def _range(self, low: float, high: float) -> tuple[float, float]:
        if self.example is not None and self.example.size:
            low, high = float(self.example.min()), float(self.example.max())
        return self.values.get("minimum", low), self.values.get("maximum", high)


@dataclass(frozen=True)
class Served:
    """A model as its server describes it."""

    name: str
    max_batch: int
    tolerance: float
    """How far two answers to one row may be apart, as a share of the largest value where that is above 1."""
    inputs: tuple[Input, ...]
    instance: Any
    """The example of `predict`: numbers, a text, a picture, or values by column name."""
    media_types: frozenset[str]
    """Bodies that `predict` takes besides JSON."""
    version: int
    """The newest, which answers where a path names none."""
    columns: Mapping[str, dict[str, Any]]
    """Of a table: the schema of each column's cells; empty for other models."""

    def rows(self, count: int, seed: int = 0) -> list[Tensors]:
        """Rows [1, …] by input name: the example first, where there is one, then random ones."""
        chance = np.random.default_rng(seed)
        found = []
        if all(each.example is not None for each in self.inputs):
            found.append({each.name: each.example for each in self.inputs if each.example is not None})
        while len(found) < count:
            length = int(chance.integers(*self.inputs[0].lengths, endpoint=True))
            found.append({each.name: each.row(chance, length) for each in self.inputs})
        return found

    @cached_property
    def text(self) -> str | None:
        """The example where it is a text."""
        given = self.instance.get("text") if isinstance(self.instance, dict) else self.instance
        return given if isinstance(given, str) else None

    def infer_requests(self, binary: bool) -> list[bytes]:
        """Requests of one row each in the Open Inference Protocol."""
        return [infer_request(self.name, row, binary) for row in self.rows(VARIANTS)]

    def predict_requests(self) -> list[bytes]:
        """The documented example, and rows of numbers, or of cells by column name."""
        if self.columns:
            return [self._instance(line) for line in (self.instance, *self._lines(VARIANTS - 1))]
        return [self._instance(self.instance), *(predict_request(self.name, row) for row in self.rows(VARIANTS, seed=1)[1:])]

    def _lines(self, count: int) -> Iterator[dict[str, Any]]:
        """Lines of a table: categories that the document names, numbers around those of its example."""
        chance = random.Random(0)
        for _ in range(count):
            line = {}
            for column, schema in self.columns.items():
                given = self.instance.get(column)
                line[column] = (
                    chance.choice(schema["examples"]) if "examples" in schema else (given or 1.0) * chance.uniform(0.5, 1.5)
                )
            yield line

    def text_requests(self) -> list[bytes]:
        """Texts, half of them as text/plain and half in JSON; none where the model takes no texts."""
        if "text/plain" not in self.media_types:
            return []
        chance = random.Random(0)
        texts = [self.text or " ".join(WORDS)]
        while len(texts) < VARIANTS:
            words = [*texts[0].split(), *WORDS]
            texts.append(" ".join(chance.choices(words, k=chance.randint(1, 2 * len(WORDS)))))
        return [
            post(self._path, text.encode(), {"Content-Type": "text/plain; charset=utf-8"})
            if number % 2 == 0
            else self._instance(text)
            for number, text in enumerate(texts)
        ]

    def image_requests(self) -> list[bytes]:
        """PNG files, half of them as image/png and half in JSON: the example, moved; none where the model takes no pictures."""
        if "image/png" not in self.media_types:
            return []
        pixels = self._pixels()
        files = [_png(np.roll(pixels, (number, number), (0, 1))) for number in range(VARIANTS)]
        return [
            post(self._path, file, {"Content-Type": "image/png"})
            if number % 2 == 0
            else self._instance({"b64": base64.b64encode(file).decode()})
            for number, file in enumerate(files)
        ]

    def _instance(self, instance: Any) -> bytes:
        return post(self._path, json.dumps({"instances": [instance]}).encode())

    @property
    def _path(self) -> str:
        return f"/models/{self.name}/predict"

    def _pixels(self) -> Array:
        """The example picture [H, W] or [H, W, 3], or noise of the input's size."""
        encoded = self.instance.get("b64") if isinstance(self.instance, dict) else self.instance
        if isinstance(encoded, str):
            return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded.rpartition(",")[2]))))
        channels, height, width = self.inputs[0].shape[1:]
        noise = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
        return noise[:, :, 0] if channels == 1 else noise


def discover(url: str) -> list[Served]:
    """Every model of the server at `url`. Raises NotServed where nothing there answers as Quartet does."""
    try:
        with Client(url, timeout=NO_ANSWER, retries=0) as client:
            names = client.models()
            paths = client.get("/openapi.json").get("paths", {})
            models = [client.metadata(name) for name in names]
    except ClientError as error:
        raise NotServed(f"{url} does not answer as a Quartet server does: {error}") from None
    if not models:
        raise NotServed(f"{url} serves no models: GET /v2/models lists none")
    return [describe(model, paths) for model in models]


def describe(metadata: Metadata, paths: dict[str, Any]) -> Served:
    """A model from its metadata and the `paths` of the OpenAPI document. Raises NotServed where these lack what is needed."""
    name = metadata.name
    try:
        content = paths[f"/models/{name}/predict"]["post"]["requestBody"]["content"]
        infer = paths[f"/v2/models/{name}/infer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        predict = content["application/json"]["schema"]
        items = predict["properties"]["instances"]["items"]
        instance = predict["example"]["instances"][0]
    except KeyError as missing:
        raise NotServed(f"the OpenAPI document does not describe model {name!r}: it lacks {missing}") from None
    numbers = items["anyOf"][-1] if "anyOf" in items else items  # texts, pictures and tables: numbers stand last
    table = "text/csv" in content and "text/plain" not in content
    example = {tensor["name"]: tensor for tensor in infer.get("example", {}).get("inputs", [])}
    error = metadata.parameters.get("max_error")
    tolerance = max(SMALLEST_TOLERANCE, 4 * error) if isinstance(error, float | int) else UNPROVEN_TOLERANCE
    given = [tensor for tensor in metadata.inputs if not tensor.parameters.get("optional")]
    inputs = []
    for tensor in given:
        schema = numbers["properties"][tensor.name] if len(given) > 1 else numbers
        dtype = DTYPES.get(tensor.datatype)
        if dtype is None:
            raise NotServed(f"model {name!r} takes {tensor.datatype}; the load tests know {', '.join(DTYPES)}")
        shown = example.get(tensor.name)
        row = None if shown is None else np.array(shown["data"], dtype).reshape(shown["shape"])
        inputs.append(_input(tensor.name, dtype, tensor.shape, schema, row))
    return Served(
        name=name,
        max_batch=int(metadata.parameters["max_batch"]),
        tolerance=tolerance,
        inputs=tuple(inputs),
        instance=instance,
        media_types=frozenset(content),
        columns=items["anyOf"][0]["anyOf"][0]["properties"] if table else {},
        version=max(int(version) for version in metadata.versions),
    )


def calm_calls(url: str, model: Served, requests: Iterable[bytes]) -> list[Call]:
    """A call for each request, for which right is what the server answers now, one at a time.

    Random values are no sensible rows for every model: those it refuses as 422 are left out, with a line in the log. Raises
    NotServed for any other answer than 200 to 422.
    """
    calls = []
    for request in requests:
        response = ask(url, request)
        if response.status == 422:
            log.info("left out a row that %s does not take: %s", model.name, error_of(response))
            continue
        if response.status != 200:
            raise NotServed(f"model {model.name!r} answers {response.status} in a calm moment: {error_of(response)}")
        version, outputs = read_answer(response)
        largest = max(1.0, *(float(np.abs(output).max()) for output in outputs.values()))
        calls.append(Call(model.name, request, {version: outputs}, model.tolerance * largest))
    return calls


def ask(url: str, request: bytes) -> Response:
    """Send a request and wait. Raises NotServed where nothing answers."""
    path, headers, body = taken_apart(request)
    return _exchange(urllib.request.Request(url + path, body, headers))


def _exchange(request: urllib.request.Request) -> Response:
    try:
        with urllib.request.urlopen(request, timeout=NO_ANSWER) as answer:
            return _response(answer.status, answer.headers.items(), answer.read())
    except HTTPError as error:
        return _response(error.code, error.headers.items(), error.read())
    except (OSError, http.client.HTTPException) as error:
        raise NotServed(f"{request.full_url} does not answer: {error}") from None


def _response(status: int, headers: Iterable[tuple[str, str]], body: bytes) -> Response:
    return Response(status, {name.lower(): value for name, value in headers}, body)


def _input(name: str, dtype: np.dtype[Any], shape: Sequence[int], schema: dict[str, Any], example: Array | None) -> Input:
    """Walk down the nested arrays of a row, keeping the limits of the one axis that has no fixed size."""
    lengths = (1, 1)
    for size in shape[1:]:
        if size == -1:
            lengths = (schema["minItems"], schema["maxItems"])
        schema = schema["items"]
    return Input(name, dtype, tuple(shape), schema, lengths, example)


def _png(pixels: Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
