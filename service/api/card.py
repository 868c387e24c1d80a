"""What a version says about itself, for people and the page at `/`: its card, and the report that its export wrote."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from modelrepo.manifest import Candidate, Preprocessing
from modelrepo.tasks import Metric, Task
from modelrepo.tensors import Signature
from service.api import examples
from service.errors import UnknownModel
from service.model import ServedModel
from service.registry import Registry

REPORT = "report.html"
INTERNALS = "explain.onnx"
# The report has styles and drawings of its own, and no script: nothing in it may run or be fetched.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'; sandbox"

Kind = Literal["numbers", "picture", "table", "text"]


class Way(BaseModel):
    """One way to serve a version, in the order of the manifest. `skipped` says why it was passed over here.

    What the exporter measured, None where it could not: `max_error` on held-out rows, and `gate_used`, the largest share of any
    limit of the gate; `agreement`, the share of test rows decided as PyTorch does; `metric` on the test split and what that lost;
    milliseconds of a batch of one, and rows a second at the best batch.
    """

    artifact: str
    provider: str
    precision: str
    bytes: int
    serves: bool
    skipped: str | None
    max_error: float | None
    gate_used: float | None
    agreement: float | None
    metric: float | None
    metric_loss: float | None
    one_row_ms: float | None
    rows_per_second: float | None


class LearntFrom(BaseModel):
    """The data set by its name, and its rows by split."""

    name: str
    rows: dict[str, int]


class Card(BaseModel):
    """One served version. `ways` holds how it could be served and how far each is from PyTorch; one of them `serves`.

    `takes` is what an instance may be besides numbers, `observed` the least and the greatest number in each input's golden rows,
    `max_rows` how many one request may have, `example` a request that works. `report`: whether `…/report` has the exporter's page;
    `internals`: whether `…/internals` has what happens inside.
    """

    name: str
    version: str
    versions: list[str]
    family: str
    takes: Kind
    signature: Signature
    task: Annotated[Task, Field(discriminator="type")]
    preprocessing: tuple[Preprocessing, ...]
    observed: dict[str, tuple[float, float]]
    max_rows: int
    example: dict[str, Any]
    metric: Metric
    metrics: dict[str, float]
    ways: list[Way]
    data: LearntFrom
    created: str
    measured_on: str
    report: bool
    internals: bool


def router(registry: Registry) -> APIRouter:
    """The endpoints, over the models of `registry`."""
    api = APIRouter(tags=["About a model"])

    @api.get("/models/{model}/versions/{version}/card")
    @api.get("/models/{model}/card")
    async def card(model: str, version: str | None = None) -> Card:
        """Task and labels, signature, preprocessing, what serves and how it was proven."""
        asked = registry.get(model, version)
        return _card(asked, [each.version for each in registry.versions(model)])

    @api.get(
        "/models/{model}/versions/{version}/report",
        response_class=Response,
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    )
    @api.get("/models/{model}/report", include_in_schema=False)
    async def report(model: str, version: str | None = None) -> Response:
        """The page that `python -m export` wrote about this version."""
        asked = registry.get(model, version)
        if not _has(asked, REPORT):
            raise UnknownModel(f"{asked.name}:{asked.version} was published without a {REPORT}")
        try:
            content = await asyncio.to_thread((asked.published.path / REPORT).read_bytes)
        except OSError as error:  # it was there, and right, when the version was loaded
            raise UnknownModel(f"{REPORT} of {asked.name}:{asked.version} cannot be read any more ({error.strerror})") from None
        headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
        return Response(content, headers=headers, media_type="text/html; charset=utf-8")

    return api


def _card(model: ServedModel, versions: list[str]) -> Card:
    manifest = model.manifest
    return Card(
        name=model.name,
        version=model.version,
        versions=versions,
        family=manifest.family,
        takes=_takes(model),
        signature=manifest.signature,
        task=manifest.task,
        preprocessing=manifest.preprocessing,
        observed=_observed(model),
        max_rows=model.max_rows,
        example=examples.predict_request(model),
        metric=manifest.metric,
        metrics=manifest.metrics,
        ways=_ways(model),
        data=LearntFrom(name=manifest.lineage.data.name, rows=manifest.lineage.data.rows),
        created=manifest.lineage.created,
        measured_on=manifest.machine.gpu or f"{manifest.machine.processor}, {manifest.machine.cores} cores",
        report=_has(model, REPORT),
        internals=_has(model, INTERNALS),
    )


def _takes(model: ServedModel) -> Kind:
    types = model.reader.media_types
    if "image/png" in types:
        return "picture"
    if "text/plain" in types:
        return "text"
    return "table" if "text/csv" in types else "numbers"


def _observed(model: ServedModel) -> dict[str, tuple[float, float]]:
    found = {}
    for spec in model.manifest.signature.value_inputs:
        numbers = model.goldens[0][spec.name]
        finite = numbers[np.isfinite(numbers)]
        if finite.size:
            found[spec.name] = (float(finite.min()), float(finite.max()))
    return found


def _ways(model: ServedModel) -> list[Way]:
    found = []
    for path, artifact, candidate in model.published.ways():
        skipped = model.skipped.get(f"{path.name} on {candidate.provider}")
        found.append(_way(candidate, artifact.file.size, candidate == model.candidate, skipped.message if skipped else None))
    return found


def _way(candidate: Candidate, size: int, serves: bool, skipped: str | None) -> Way:
    parity, costs = candidate.parity, [cost for cost in candidate.costs if cost.median_ms]
    return Way(
        artifact=candidate.artifact,
        provider=candidate.provider,
        precision=candidate.precision,
        bytes=size,
        serves=serves,
        skipped=skipped,
        max_error=parity and parity.max_abs_error,
        gate_used=parity and parity.used,
        agreement=parity and parity.agreement,
        metric=parity and parity.metric.value,
        metric_loss=parity and parity.loss,
        one_row_ms=min((cost.median_ms for cost in costs if cost.batch == 1), default=None),
        rows_per_second=max((1e3 * cost.batch / cost.median_ms for cost in costs), default=None),
    )


def _has(model: ServedModel, name: str) -> bool:
    """Whether a file belongs to the version."""
    return any(file.path == name for file in model.manifest.files())
