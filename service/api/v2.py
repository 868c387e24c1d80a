"""Metadata, health and statistics of the Open Inference Protocol."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version as installed
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from modelrepo.manifest import Candidate
from modelrepo.tensors import TensorSpec
from service.codec import tensor
from service.errors import Unavailable
from service.model import ServedModel
from service.registry import Registry
from service.siblings import Reply, Siblings
from service.statistics import Compute, Duration

EXTENSIONS = ["binary_tensor_data", "model_repository", "schedule_policy", "statistics"]  # only what is really there
PLATFORMS = {"onnx": "onnx_onnxv1", "tensorrt": "tensorrt_plan"}


class ServerMetadata(BaseModel):
    """What this server is and can do."""

    name: Literal["quartet"] = "quartet"
    version: str
    extensions: list[str] = EXTENSIONS


class TensorMetadata(BaseModel):
    """One input or output; -1 in the shape is a dynamic axis."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, str | int | float | bool] = {}


class ModelMetadata(BaseModel):
    """One served model. `parameters` says what answers and how far it was proven."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, str | int | float | bool]


class DurationStatistic(BaseModel):
    """How often something happened, and the nanoseconds it took in all."""

    count: int
    ns: int


NEVER = DurationStatistic(count=0, ns=0)


class ComputeStatistics(BaseModel):
    """Merging and padding rows, the session, and splitting its outputs."""

    compute_input: DurationStatistic
    compute_infer: DurationStatistic
    compute_output: DurationStatistic


class InferenceStatistics(ComputeStatistics):
    """By request; a large request counts in `queue` and `compute_…` once for each batch it was split into."""

    success: DurationStatistic
    fail: DurationStatistic
    queue: DurationStatistic
    cache_hit: DurationStatistic = NEVER
    cache_miss: DurationStatistic = NEVER


class BatchStatistics(ComputeStatistics):
    """By batch, for each number of rows that ran together."""

    batch_size: int


class ModelStatistics(BaseModel):
    """Since the version was loaded. `inference_count` is in rows, `execution_count` in batches, `last_inference` in ms."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]


class StatisticsList(BaseModel):
    """Statistics of every version asked about."""

    model_stats: list[ModelStatistics]


class ModelList(BaseModel):
    """Names of the served models."""

    models: list[str]


class Live(BaseModel):
    """The process answers."""

    live: bool = True


class Ready(BaseModel):
    """Every model is loaded and proven. Both keys, because clients of different servers look for different ones."""

    live: bool = True
    ready: bool = True


class ModelReady(BaseModel):
    """One model is loaded and proven."""

    name: str
    ready: bool = True


def router(registry: Registry, siblings: Siblings) -> APIRouter:
    """The endpoints, over the models of `registry`."""
    api = APIRouter(tags=["Open Inference Protocol"])

    @api.get("/v2/", include_in_schema=False)
    @api.get("/v2")
    async def server() -> ServerMetadata:
        """Name, version and extensions of the server."""
        return server_metadata()

    @api.get("/v2/health/live")
    async def live() -> Live:
        """Whether the process answers at all."""
        return Live()

    @api.get("/v2/health/ready")
    async def ready(http: Request) -> Ready:
        """Whether every model is loaded, warmed and proven; 503 with what is still missing, and while shutting down."""
        require_ready(registry)
        require_others_ready(await siblings.repeat(http))
        return Ready()

    @api.get("/v2/models")
    async def models() -> ModelList:
        """The served models."""
        return ModelList(models=list(dict.fromkeys(model.name for model in registry.models())))

    @api.get("/v2/models/stats")
    async def statistics(http: Request) -> StatisticsList:
        """What every model has done since it was loaded."""
        return with_others(statistics_of(registry.models()), await siblings.repeat(http))

    @api.get("/v2/models/{model}/versions/{version}/stats")
    @api.get("/v2/models/{model}/stats")
    async def model_statistics(http: Request, model: str, version: str | None = None) -> StatisticsList:
        """What one model has done since it was loaded."""
        return with_others(statistics_of(asked(registry, model, version)), await siblings.repeat(http))

    @api.get("/v2/models/{model}/versions/{version}")
    @api.get("/v2/models/{model}")
    async def model_metadata(model: str, version: str | None = None) -> ModelMetadata:
        """Inputs and outputs of a model, and what serves it."""
        return metadata(registry, model, version)

    @api.get("/v2/models/{model}/versions/{version}/ready")
    @api.get("/v2/models/{model}/ready")
    async def model_ready(model: str, version: str | None = None) -> ModelReady:
        """Whether a model is loaded, warmed and proven."""
        return ModelReady(name=ready_model(registry, model, version).name)

    return api


def server_metadata() -> ServerMetadata:
    """Of the version that is installed."""
    return ServerMetadata(version=installed("quartet"))


def require_ready(registry: Registry) -> None:
    """Raise Unavailable, saying what is missing, where the server is not to get requests."""
    if registry.stopping:
        raise Unavailable("the server is shutting down")
    if not registry.ready:
        raise Unavailable("not ready: " + "; ".join(f"{name}: {why}" for name, why in registry.waiting_for().items()))


def require_others_ready(replies: Sequence[Reply]) -> None:
    """Raise Unavailable where another worker said that it is not ready."""
    for reply in replies:
        if reply.status != 200:
            raise Unavailable(reply.error)


def ready_model(registry: Registry, name: str, version: str | None) -> ServedModel:
    """A model that has a session to answer with. Raises UnknownModel or Unavailable."""
    model = registry.get(name, version)
    if not model.ready:
        raise Unavailable(f"model {name!r} is not ready: {model.fault}")
    return model


def asked(registry: Registry, name: str, version: str | None) -> list[ServedModel]:
    """The version of a model that is asked about, or all of them. Raises UnknownModel or Unavailable."""
    model = registry.get(name, version)
    return registry.versions(name) if version is None else [model]


def with_others(own: Sequence[ModelStatistics], replies: Sequence[Reply]) -> StatisticsList:
    """This worker's statistics with what the other workers did, as they answer over HTTP."""
    found = [StatisticsList.model_validate_json(reply.body) for reply in replies if reply.status == 200]
    theirs = [{(model.name, model.version): model for model in each.model_stats} for each in found]
    return StatisticsList(
        model_stats=[_sum([mine, *(each[key] for each in theirs if (key := (mine.name, mine.version)) in each)]) for mine in own]
    )


def metadata(registry: Registry, name: str, version: str | None) -> ModelMetadata:
    """Inputs and outputs of a model, and what serves it. Raises UnknownModel or Unavailable."""
    model = registry.get(name, version)
    versions = [each.version for each in registry.versions(name)]
    manifest = model.manifest
    parameters: dict[str, str | int | float | bool] = {
        "family": manifest.family,
        "task": manifest.task.type,
        "artifact": model.artifact.file.path,
        "precision": model.candidate.precision,
        "provider": model.provider,
        "max_batch": manifest.signature.batch.max,
        f"test {manifest.metric.name}": manifest.metric.value,
        **_proof(model.candidate),
        **{f"skipped {way}": why.message for way, why in model.skipped.items()},
    }
    return ModelMetadata(
        name=model.name,
        versions=versions,
        platform=PLATFORMS[model.artifact.format],
        inputs=[_tensor(spec, model.reader.takes_texts(spec.name)) for spec in manifest.signature.inputs],
        outputs=[_tensor(spec) for spec in manifest.signature.outputs],
        parameters=parameters,
    )


def statistics_of(models: Sequence[ServedModel]) -> list[ModelStatistics]:
    """What this process has counted of them."""
    return [_statistics(model) for model in models]


def _statistics(model: ServedModel) -> ModelStatistics:
    counted = model.statistics
    return ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=counted.last_inference,
        inference_count=counted.rows,
        execution_count=counted.batches,
        inference_stats=InferenceStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            queue=_duration(counted.queue),
            cache_hit=_duration(counted.cache_hit),
            cache_miss=_duration(counted.cache_miss),
            **_compute(counted.compute),
        ),
        batch_stats=[BatchStatistics(batch_size=rows, **_compute(compute)) for rows, compute in sorted(counted.by_size.items())],
    )


def _sum(statistics: list[ModelStatistics]) -> ModelStatistics:
    """Of one version in several workers."""
    first = statistics[0]
    if len(statistics) == 1:
        return first
    by_size: dict[int, list[BatchStatistics]] = defaultdict(list)
    for batch in (batch for each in statistics for batch in each.batch_stats):
        by_size[batch.batch_size].append(batch)
    return ModelStatistics(
        name=first.name,
        version=first.version,
        last_inference=max(each.last_inference for each in statistics),
        inference_count=sum(each.inference_count for each in statistics),
        execution_count=sum(each.execution_count for each in statistics),
        inference_stats=InferenceStatistics(**_durations([each.inference_stats for each in statistics])),
        batch_stats=[BatchStatistics(batch_size=size, **_durations(batches)) for size, batches in sorted(by_size.items())],
    )


def _durations(parts: Sequence[BaseModel]) -> dict[str, DurationStatistic]:
    """Every duration of several like statistics, added up."""
    fields = [name for name, value in parts[0] if isinstance(value, DurationStatistic)]
    found = {name: [getattr(part, name) for part in parts] for name in fields}
    return {name: DurationStatistic(count=sum(d.count for d in each), ns=sum(d.ns for d in each)) for name, each in found.items()}


def _compute(compute: Compute) -> dict[str, DurationStatistic]:
    stages = {"compute_input": compute.input, "compute_infer": compute.infer, "compute_output": 0.0}
    return {stage: _duration(Duration(compute.count, seconds)) for stage, seconds in stages.items()}


def _duration(duration: Duration) -> DurationStatistic:
    return DurationStatistic(count=duration.count, ns=round(duration.seconds * 1e9))


def _proof(candidate: Candidate) -> dict[str, str | int | float | bool]:
    """How far it is from PyTorch, as the exporter measured it; without that, only the golden rows vouch for it."""
    if candidate.parity is None:
        return {"max_error": f"not measured; golden rows came out within {candidate.golden_tolerance:g}"}
    return {"max_error": candidate.parity.max_abs_error, "metric_loss": candidate.parity.loss}


def _tensor(spec: TensorSpec, texts: bool = False) -> TensorMetadata:
    parameters: dict[str, str | int | float | bool] = {"description": spec.description} if spec.description else {}
    if spec.role == "mask":
        parameters["optional"] = True
    if texts:
        parameters["also"] = "BYTES: a text a row, which the server turns into tokens"
    return TensorMetadata(name=spec.name, datatype=tensor.datatype(spec.dtype), shape=spec.wire_shape, parameters=parameters)
