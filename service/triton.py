"""Our metrics under the names of Triton Inference Server, for dashboards and scaling rules that were made for it.

Names, labels and meanings: Triton's docs/user_guide/metrics.md. Left out are its opt-in summaries and histograms, pinned memory,
energy, and CPU metrics, which are the machine's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.gpu import READINGS
from service.metrics import Metrics
from service.model import ServedModel
from service.registry import Registry

Cause = Literal["REJECTED", "CANCELED", "BACKEND", "OTHER"]

MICROSECONDS = 1e6
TYPE = re.compile(rb"^(# TYPE nv_\w+) untyped$", re.MULTILINE)


def typed(text: bytes) -> bytes:
    """The text of /metrics with Triton's counters declared as such: prometheus_client would add `_total` to their names."""
    return TYPE.sub(rb"\1 counter", text)


class TritonNames(Collector):
    """Of the versions that serve."""

    def __init__(self, registry: Registry, metrics: Metrics, refusal: int) -> None:
        """`refusal` is the status of what is refused because too much waits."""
        self._registry = registry
        self._refusal = refusal
        self._metrics = metrics
        metrics.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """For prometheus_client."""
        models = self._registry.models()
        pending = GaugeMetricFamily(
            "nv_inference_pending_request_count", "Instantaneous number of pending requests awaiting execution", labels=()
        )
        counters: dict[str, Metric] = {}

        def count(name: str, documentation: str, model: ServedModel, value: float, **more: str) -> None:
            metric = counters.setdefault(name, Metric(name, documentation, "unknown"))
            metric.add_sample(name, {"model": model.name, "version": model.version, **more}, value)

        for model in models:
            did = model.statistics
            count("nv_inference_request_success", "Successful inference requests, all batch sizes", model, did.success.count)
            for cause, failures in self._failures(model).items():
                count("nv_inference_request_failure", "Failed inference requests, by reason", model, failures, reason=cause)
            count("nv_inference_count", "Inferences, a row each (not those from the cache)", model, did.rows)
            count("nv_inference_exec_count", "Batches that ran (not for requests from the cache)", model, did.batches)
            for stage, seconds in (
                ("request", did.success.seconds),
                ("queue", did.queue.seconds),
                ("compute_input", did.compute.input),
                ("compute_infer", did.compute.infer),
                ("compute_output", 0.0),
            ):
                name = f"nv_inference_{stage}_duration_us"
                count(name, f"Cumulative {stage} time of requests in microseconds", model, seconds * MICROSECONDS)
            for result, cached in (("hit", did.cache_hit), ("miss", did.cache_miss)) if model.cache is not None else ():
                plural = {"hit": "hits", "miss": "misses"}[result]
                count(f"nv_cache_num_{plural}_per_model", f"Cache {plural}", model, cached.count)
                name = f"nv_cache_{result}_duration_per_model"
                count(name, f"Cumulative time of cache {plural} in microseconds", model, cached.seconds * MICROSECONDS)
            pending.add_sample(pending.name, {"model": model.name, "version": model.version}, model.batcher.waiting)
        yield from counters.values()
        yield pending
        for reading in READINGS:
            gpus = GaugeMetricFamily(reading.triton, reading.documentation, labels=("gpu_uuid",))
            for gpu in self._metrics.gpus.found:
                if reading in gpu.values:
                    gpus.add_metric((gpu.uuid,), gpu.values[reading])
            if gpus.samples:
                yield gpus

    def _failures(self, model: ServedModel) -> dict[Cause, int]:
        """By Triton's reasons: turned away or not answered in time, left by their caller, our fault, any other."""
        labels = (model.name, model.version)
        refused = sum(self._metrics.refused.labels(*labels, reason).value for reason in ("queue", "deadline"))
        found: dict[Cause, int] = {
            "REJECTED": refused,
            "CANCELED": self._metrics.cancelled.labels(*labels).value,
            "BACKEND": 0,
            "OTHER": 0,
        }
        for interface in ("infer", "predict"):
            for status, number in model.answers(interface).by_status():
                if status == 504:
                    found["REJECTED"] += number
                elif status >= 500:
                    found["BACKEND"] += number
                elif status != 200:
                    found["OTHER"] += number
        found["BACKEND" if self._refusal >= 500 else "OTHER"] -= refused  # which have that status
        return found
