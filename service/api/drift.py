"""`GET /v2/models/{model}[/versions/{version}]/drift`: how far the rows a model is sent lie from those it learnt from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel

from service.drift import LEAST_ROWS, Drift, Seen
from service.errors import UnknownModel
from service.model import ServedModel
from service.registry import Registry
from service.siblings import Siblings


class Bin(BaseModel):
    """A part of a feature's values: its shares of the training rows' and of those seen, and how many were seen."""

    values: str
    expected: float
    seen: float
    count: int


class FeatureDrift(BaseModel):
    """One feature of the rows, or of the predictions. `psi` is None as long as too few rows have been seen."""

    name: str
    psi: float | None
    outside: float
    bins: list[Bin]


class ModelDrift(BaseModel):
    """Rows of the last `window_seconds`, a sample of `rows`; `outside_rows` of them have a value like none of the training rows.

    `psi`, the population stability index, is the largest of all features: below 0.1 nothing has changed, from 0.25 on it has. It is
    None below `least_rows`.
    """

    name: str
    version: str
    window_seconds: float
    rows: int
    least_rows: int = LEAST_ROWS
    outside_rows: int
    outside_share: float | None
    training_rows: int
    psi: float | None
    features: list[FeatureDrift]


def router(registry: Registry, siblings: Siblings) -> APIRouter:
    """The endpoint, over the models of `registry`."""
    api = APIRouter(tags=["Operations"])

    @api.get("/v2/models/{model}/versions/{version}/drift")
    @api.get("/v2/models/{model}/drift")
    async def drift(http: Request, model: str, version: str | None = None) -> ModelDrift:
        """How the rows of the last hour, a sample of them, differ from the training rows; features that have shifted most first."""
        asked = registry.get(model, version)
        if asked.drift is None:
            raise UnknownModel(
                f"no drift is looked for in {asked.name!r} version {asked.version}: "
                + (
                    "--drift-rows is 0"
                    if asked.manifest.reference
                    else "it does not say what it learnt from; train and export it again"
                )
            )
        seen = await asked.drift.settled()
        for reply in await siblings.repeat(http):
            theirs = ModelDrift.model_validate_json(reply.body) if reply.status == 200 else None
            if theirs is not None and theirs.version == asked.version:  # they may be a version ahead, for a moment
                seen = seen.plus(_counts(asked.drift, theirs))
        return _report(asked, asked.drift, seen)

    return api


def _counts(drift: Drift, told: ModelDrift) -> Seen:
    """What another worker has seen."""
    features = {feature.name: feature for feature in told.features}
    counts = [each.count for feature in drift.bins.features for each in features[feature.name].bins]
    return Seen(np.array(counts), told.rows, told.outside_rows)


def _report(model: ServedModel, drift: Drift, seen: Seen) -> ModelDrift:
    enough = seen.rows >= LEAST_ROWS
    index = drift.bins.index(seen.counts)
    features = [_feature(drift, number, seen.counts, float(index[number]) if enough else None) for number in np.argsort(-index)]
    return ModelDrift(
        name=model.name,
        version=model.version,
        window_seconds=drift.window,
        rows=seen.rows,
        outside_rows=seen.outside,
        outside_share=seen.outside / seen.rows if seen.rows else None,
        training_rows=drift.rows,
        psi=float(index.max()) if enough else None,
        features=features,
    )


def _feature(drift: Drift, number: int, counts: np.ndarray, psi: float | None) -> FeatureDrift:
    feature, start = drift.bins.features[number], int(drift.bins.starts[number])
    seen = counts[start : start + len(feature.counts)]
    return FeatureDrift(
        name=feature.name,
        psi=psi,
        outside=_share(int(seen[feature.outside].sum()), seen),
        bins=[
            Bin(values=values, expected=_share(expected, feature.counts), seen=_share(int(count), seen), count=int(count))
            for values, expected, count in zip(feature.bins, feature.counts, seen, strict=True)
        ],
    )


def _share(part: int, whole: Sequence[int] | np.ndarray) -> float:
    return part / max(1, int(np.sum(whole)))
