"""Requests, made from golden rows where there are any, and what makes an answer to one of them right, refused or lost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modelrepo.repository import ModelVersion, Repository
from modelrepo.tasks import Regression
from modelrepo.tensors import Signature, Tensors
from quartet_client import Prediction, wire
from service.batch import Ran
from service.codec.predictions import Predictions

REFUSALS = {429, 503, 504}


@dataclass(frozen=True)
class Response:
    """What came back: header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Call:
    """A request as it goes over the wire, and the outputs that are right for each version that may answer it.

    The outputs of `predict` are an array [rows] for each label, of its probabilities, or for each target, of its values.
    """

    model: str
    request: bytes
    expected: Mapping[str, Tensors]
    tolerance: float

    def judge(self, response: Response) -> tuple[str, str]:
        """`("right", version)`, `("refused", status)` or `("lost", why)`."""
        if response.status == 200:
            try:
                version, outputs = read_answer(response)
            except (ValueError, KeyError, TypeError) as error:
                return "lost", f"200 with a body that is no answer: {type(error).__name__}: {error}"
            return self._compare(version, outputs)
        return refusal(response) or ("lost", f"status {response.status}: {response.body[:120].decode(errors='replace')}")

    def _compare(self, version: str, outputs: Tensors) -> tuple[str, str]:
        if version not in self.expected:
            return "lost", f"{self.model} was answered by version {version}, expected one of {sorted(self.expected)}"
        for name, right in self.expected[version].items():
            answer = outputs.get(name)
            if answer is None or answer.shape != right.shape or not np.abs(answer - right).max() <= self.tolerance:
                return "lost", f"{self.model}:{version} answered wrongly: {name} is not within {self.tolerance:g} of what is right"
        return "right", version


def refusal(response: Response) -> tuple[str, str] | None:
    """`("refused", status)` where the response is a refusal as it should be: an error in JSON, 429 with Retry-After."""
    if response.status not in REFUSALS or (response.status == 429 and not response.headers.get("retry-after", "").isdigit()):
        return None
    return ("refused", str(response.status)) if error_of(response) else None


def error_of(response: Response) -> str | None:
    """The message of a body `{"error": "…"}`; None for any other body."""
    try:
        body = json.loads(response.body)
    except ValueError:
        return None
    message = body.get("error") if isinstance(body, dict) else None
    return message if isinstance(message, str) and message else None


def golden_calls(
    repository: Repository,
    model: str,
    versions: Sequence[int] = (1,),
    rows: int = 1,
    binary: bool = False,
    headers: Mapping[str, str] | None = None,
) -> list[Call]:
    """A call for each golden row of a model's first version of `versions`, `rows` times over in one request.

    The others of `versions` are copies of it. Sequences are sent at their own length, without a mask. The tolerance is
    the widest of the version's ways to serve. Rows that lack a value are left out of JSON, which has no NaN.
    """
    published = repository.open(model, versions[0])
    tolerance = golden_tolerance(published)
    calls = []
    for inputs, outputs in golden_rows(published):
        if binary or is_finite(inputs):
            one = {name: array.repeat(rows, axis=0) for name, array in inputs.items()}
            right = {name: array.repeat(rows, axis=0) for name, array in outputs.items()}
            request = infer_request(model, one, binary, headers)
            calls.append(Call(model, request, {str(version): right for version in versions}, tolerance))
    return calls


def golden_predictions(repository: Repository, model: str, version: int) -> list[Call]:
    """The same for `/models/{model}/predict`: a call for each golden row without missing values, as numbers."""
    published = repository.open(model, version)
    task = published.manifest.task
    predictions = Predictions(model, str(version), task)
    tolerance = golden_tolerance(published) / (1.0 if isinstance(task, Regression) else min(1.0, task.temperature))
    calls = []
    for inputs, outputs in golden_rows(published):
        if is_finite(inputs):
            body = predictions.encode(Ran({task.output: outputs[task.output]}), 0, len(outputs[task.output]))
            calls.append(Call(model, predict_request(model, inputs), dict([read_answer(Response(200, {}, body))]), tolerance))
    return calls


def golden_rows(published: ModelVersion) -> list[tuple[Tensors, Tensors]]:
    """Inputs and outputs [1, …] of each golden row: sequences at their own length, without a mask."""
    inputs, outputs = published.goldens()
    signature = published.manifest.signature
    rows = len(next(iter(inputs.values())))
    return [(_row(signature, inputs, row), {name: array[row : row + 1] for name, array in outputs.items()}) for row in range(rows)]


def golden_tolerance(published: ModelVersion) -> float:
    """How far an answer may be from a golden row: what the widest of the version's ways to serve is allowed."""
    return max(candidate.golden_tolerance for candidate in published.manifest.candidates)


def is_finite(inputs: Tensors) -> bool:
    """Whether no value is missing, so that JSON can carry them."""
    return all(bool(np.isfinite(array).all()) for array in inputs.values())


def predict_request(model: str, inputs: Tensors) -> bytes:
    """`POST /models/{model}/predict` with these rows as nothing but numbers, the whole request."""
    rows = zip(*(array.tolist() for array in inputs.values()), strict=True)
    instances = [row[0] if len(row) == 1 else dict(zip(inputs, row, strict=True)) for row in rows]
    return post(f"/models/{model}/predict", json.dumps({"instances": instances}).encode())


def infer_request(model: str, inputs: Tensors, binary: bool = False, headers: Mapping[str, str] | None = None) -> bytes:
    """`POST /v2/models/{model}/infer` with these inputs, the whole request; `binary` for the tensors' bytes both ways."""
    described, body = wire.infer_body(inputs, binary=binary)
    return post(f"/v2/models/{model}/infer", body, {**described, **(headers or {})})


def post(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A POST, as it goes over the wire."""
    fields = {"Host": "quartet", "Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join((*lines, "", "")).encode() + body


def taken_apart(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Path, headers and body of a request that `post` made, for clients that put requests together themselves."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return first.split(" ")[1], {name: headers[name] for name in headers.keys() - {"Host", "Content-Length"}}, body


def _row(signature: Signature, inputs: Tensors, row: int) -> Tensors:
    """One golden row as a caller would send it: as long as it really is, without its mask."""
    taken = {spec.name: inputs[spec.name][row : row + 1] for spec in signature.value_inputs}
    if signature.mask is None:
        return taken
    real = int(inputs[signature.mask.name][row].sum())
    return {spec.name: spec.resized(taken[spec.name], real) for spec in signature.value_inputs}


def read_answer(response: Response) -> tuple[str, Tensors]:
    """The version that answered, and its outputs. Raises ValueError, KeyError or TypeError for what is no answer."""
    if wire.HEADER_LENGTH.lower() in response.headers:
        outputs = wire.read_infer(response.headers, response.body)
    else:
        answer = json.loads(response.body)
        if "predictions" in answer:
            predictions = wire.predictions_of(answer)
            return predictions.version, _predicted(predictions)
        outputs = wire.outputs_of(answer)
    return outputs.version, outputs


def _predicted(rows: Sequence[Prediction]) -> Tensors:
    """An array [rows] for each label or target: the order of labels says nothing that the probabilities do not."""
    values = [row.values or row.probabilities or {} for row in rows]
    return {name: np.array([row[name] for row in values], np.float64) for name in values[0]}
