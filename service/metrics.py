"""Every metric of the service, declared once, on a registry of its own. They follow a request's stages."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from modelrepo.tensors import ShapeRange
from service.batching import BatchFacts

SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)
MODEL = ("model", "version")


class Metrics:
    """Counters, histograms and gauges; `render` is the text of /metrics."""

    def __init__(self, batch: ShapeRange) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside every one, which nobody reads
        self.registry = CollectorRegistry()
        on = self.registry
        self.requests = Counter("quartet_requests", "Inference requests by status", (*MODEL, "interface", "status"), registry=on)
        self.request_seconds = Histogram(
            "quartet_request_seconds",
            "From the body's first byte to the answer",
            (*MODEL, "interface"),
            buckets=SECONDS,
            registry=on,
        )
        self.queue_seconds = Histogram("quartet_queue_seconds", "Waiting for a batch", MODEL, buckets=SECONDS, registry=on)
        self.compute_seconds = Histogram(
            "quartet_compute_seconds", "Padding and running one batch", MODEL, buckets=SECONDS, registry=on
        )
        self.batch_rows = Histogram("quartet_batch_rows", "Rows in a batch", MODEL, buckets=batch.buckets, registry=on)
        self.padding = Histogram("quartet_padding_share", "Share of a batch that is padding", MODEL, buckets=SHARES, registry=on)
        self.abandoned_rows = Counter(
            "quartet_abandoned_rows", "Rows dropped from the queue because their caller left", MODEL, registry=on
        )
        self.queue_rows = Gauge("quartet_queue_rows", "Rows waiting", MODEL, registry=on)
        self.skipped = Counter(
            "quartet_artifacts_skipped", "Artifacts passed over for the next in order", (*MODEL, "artifact"), registry=on
        )
        self.models = Gauge("quartet_model_info", "1 for what serves", (*MODEL, "artifact", "provider", "precision"), registry=on)
        Gauge("quartet_build_info", "1, with the version", ("version",), registry=on).labels(version("quartet")).set(1)

    def batch_observer(self, model: str, version: str) -> Callable[[BatchFacts], None]:
        """What records the batches of one model."""
        histograms = (self.batch_rows, self.compute_seconds, self.padding, self.queue_seconds)
        rows, seconds, padding, waits = (histogram.labels(model, version) for histogram in histograms)

        def observe(facts: BatchFacts) -> None:
            rows.observe(facts.rows)
            seconds.observe(facts.seconds)
            padding.observe(facts.padding)
            for wait in facts.waits:
                waits.observe(wait)

        return observe

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
