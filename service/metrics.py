"""Every metric of the service, declared once, on a registry of its own. They follow a request's stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from operator import add
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from modelrepo.tensors import ShapeRange
from service import store_metrics
from service.admission import Observer
from service.batch import BatchFacts, Reason
from service.gpu import Gpus
from service.statistics import Statistics
from service.tally import Count, Counter, Histogram

if TYPE_CHECKING:  # a model is given the metrics when it is made
    from service.loading import Skipped
    from service.model import ServedModel

SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)
LOADING = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
MODEL = ("model", "version")
BACKEND = (*MODEL, "backend")


class Metrics:
    """Counters, histograms and gauges; `render` is the text of /metrics."""

    def __init__(self, batch: ShapeRange) -> None:
        self.registry = CollectorRegistry()
        on = self.registry
        self.requests = Counter("quartet_requests", "Inference requests by status", (*MODEL, "interface", "status"), registry=on)
        self.request_seconds = Histogram(
            "quartet_request_seconds",
            "From the body's first byte to the answer",
            (*BACKEND, "interface"),
            bounds=SECONDS,
            registry=on,
        )
        self.queue_seconds = Histogram("quartet_queue_seconds", "Waiting for a batch", BACKEND, bounds=SECONDS, registry=on)
        self.compute_seconds = Histogram(
            "quartet_compute_seconds", "Padding and running one batch", BACKEND, bounds=SECONDS, registry=on
        )
        self.batches = Counter(
            "quartet_batches", "Batches by why they left: idle, freed, full or window", (*MODEL, "reason"), registry=on
        )
        self.batch_rows = Histogram("quartet_batch_rows", "Rows in a batch", BACKEND, bounds=batch.buckets, registry=on)
        self.padding = Histogram("quartet_padding_share", "Share of a batch that is padding", BACKEND, bounds=SHARES, registry=on)
        self.dropped_rows = Counter(
            "quartet_dropped_rows",
            "Rows without an answer: refused on arrival (queue, deadline), expired, or abandoned by their caller",
            (*MODEL, "reason"),
            registry=on,
        )
        self.refused = Counter(
            "quartet_refused_requests",
            "Requests turned away on arrival, by why: queue or deadline",
            (*MODEL, "reason"),
            registry=on,
        )
        self.cancelled = Counter("quartet_cancelled_requests", "Callers that left before their answer", MODEL, registry=on)
        self.queue_rows = Gauge("quartet_queue_rows", "Rows waiting", MODEL, registry=on)
        self.predicted_wait = Gauge("quartet_predicted_wait_seconds", "Until a row that arrives now would run", MODEL, registry=on)
        self.cache_hits = Counter("quartet_response_cache_hits", "Requests answered from the response cache", MODEL, registry=on)
        self.cache_misses = Counter("quartet_response_cache_misses", "Requests not found in it", MODEL, registry=on)
        self.cache_evictions = Counter("quartet_response_cache_evictions", "Answers that went to make room", MODEL, registry=on)
        self.cache_bytes = Gauge("quartet_response_cache_bytes", "What the response cache takes", MODEL, registry=on)
        self.sessions = Gauge("quartet_sessions", "Sessions that can run batches", MODEL, registry=on)
        self.sessions_lost = Counter("quartet_sessions_lost", "Sessions that died or hung, and were replaced", MODEL, registry=on)
        self.loads = Counter("quartet_loads", "Versions loaded, or failed to", ("model", "result"), registry=on)
        self.load_seconds = Histogram(
            "quartet_load_seconds", "Opening, warming and proving a version", ("model",), bounds=LOADING, registry=on
        )
        self.skipped = Counter(
            "quartet_artifacts_skipped",
            "Artifacts passed over for the next in order: other answers (golden), no GPU here (no_gpu), not to be run (session)",
            (*MODEL, "artifact", "cause"),
            registry=on,
        )
        self.models = Gauge("quartet_model_info", "1 for what serves", (*MODEL, "artifact", "provider", "precision"), registry=on)
        Gauge("quartet_build_info", "1, with the version", ("version",), registry=on).labels(version("quartet")).set(1)
        self.loop_lag = Histogram(
            "quartet_event_loop_lag_seconds", "How late the event loop came to what was due", (), bounds=SECONDS, registry=on
        ).labels()
        self.gpus = Gpus(on)
        self.rejected = Gauge(
            "quartet_file_rejected", "1 while what is in it now cannot be used: keys, tls", ("file",), registry=on
        )
        ProcessCollector(registry=on)  # CPU, memory, descriptors, and the start, from which restarts show

    def answers(
        self, interface: str, model: str = "", version: str = "", statistics: Statistics | None = None, backend: str = ""
    ) -> Answers:
        """What counts the answers to requests, in the model's `statistics` too; without a model, those that found none."""
        return Answers(self, (model, version, backend, interface), statistics)

    def observer(self, model: str, version: str, statistics: Statistics, backend: str = "") -> Observer:
        """What records the batches of one model, in its `statistics` too."""
        return _ModelObserver(self, (model, version, backend), statistics)

    def serves(self, model: ServedModel) -> None:
        """A version answers from now on."""
        labels = (model.name, model.version)
        self.models.labels(*labels, model.artifact.file.path, model.provider, model.candidate.precision).set(1)
        self.queue_rows.labels(*labels).set_function(lambda: model.batcher.waiting_rows)
        self.predicted_wait.labels(*labels).set_function(lambda: model.batcher.predicted_wait())
        self.sessions.labels(*labels).set_function(lambda: len(model.batcher.workers))
        if (cache := model.cache) is not None:
            self.cache_bytes.labels(*labels).set_function(lambda: cache.size)
        self.skips(*labels, model.skipped)
        for counter in (self.sessions_lost, self.cancelled):  # a rise from 0 shows only where there was a 0
            counter.labels(*labels)
        self.loads.labels(model.name, "failed")

    def skips(self, model: str, version: str, skipped: Mapping[str, Skipped]) -> None:
        """A version was loaded, or failed to, and these ways to serve it were passed over."""
        for way, why in skipped.items():
            self.skipped.labels(model, version, way, why.cause).inc()

    def forgets(self, model: ServedModel) -> None:
        """A version answers no more: its gauges go, its counters stay, as Prometheus wants."""
        labels = (model.name, model.version)
        self.models.remove(*labels, model.artifact.file.path, model.provider, model.candidate.precision)
        for gauge in (self.queue_rows, self.predicted_wait, self.sessions):
            gauge.remove(*labels)
        if model.cache is not None:
            self.cache_bytes.remove(*labels)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class Answers:
    """The answers given over one interface of one version, looked up once."""

    def __init__(self, metrics: Metrics, labels: tuple[str, str, str, str], statistics: Statistics | None) -> None:
        """`labels` are model, version, backend and interface."""
        model, version, _backend, interface = labels
        self._requests = metrics.requests
        self._labels = (model, version, interface)
        self._statistics = statistics
        self._seconds = metrics.request_seconds.labels(*labels)
        self._counts: dict[int, Count] = {}

    def add(self, status: int, seconds: float) -> None:
        """A request got an answer with this status, `seconds` after its first byte."""
        count = self._counts.get(status)
        if count is None:
            count = self._counts[status] = self._requests.labels(*self._labels, str(status))
        count.value += 1
        self._seconds.observe(seconds)
        if self._statistics is not None:
            (self._statistics.succeeded if status == 200 else self._statistics.failed)(seconds)

    @property
    def latencies(self) -> Sequence[int]:
        """How many answers took at most each of SECONDS, and no less than the one before; longer ones come last."""
        return self._seconds.counts

    def by_status(self) -> Iterator[tuple[int, int]]:
        """How many answers had each status."""
        for status, count in self._counts.items():
            yield status, count.value


class _ModelObserver:
    """The metrics of one version, looked up once."""

    def __init__(self, metrics: Metrics, labels: tuple[str, str, str], statistics: Statistics) -> None:
        """`labels` are model, version and backend."""
        model, version, _backend = labels
        self._statistics = statistics
        histograms = (metrics.batch_rows, metrics.compute_seconds, metrics.padding, metrics.queue_seconds)
        self._rows, self._seconds, self._padding, self._waits = (histogram.labels(*labels) for histogram in histograms)
        self._left = {reason: metrics.batches.labels(model, version, reason) for reason in get_args(Reason)}
        reasons = ("queue", "deadline", "expired", "abandoned")
        self._dropped = {reason: metrics.dropped_rows.labels(model, version, reason) for reason in reasons}
        self._refused = {reason: metrics.refused.labels(model, version, reason) for reason in ("queue", "deadline")}

    def batch(self, facts: BatchFacts) -> None:
        self._left[facts.reason].value += 1
        self._rows.observe(facts.rows)
        self._seconds.observe(facts.merging + facts.computing)
        self._padding.observe(facts.padding)
        self._waits.observe_each(facts.waits)
        self._statistics.batch(facts.rows, facts.waits, facts.computing, facts.merging)

    def abandoned(self, rows: int) -> None:
        self._dropped["abandoned"].inc(rows)

    def refused(self, reason: str, rows: int) -> None:
        self._dropped[reason].inc(rows)
        self._refused[reason].inc()

    def expired(self, rows: int) -> None:
        self._dropped["expired"].inc(rows)


WORST = (
    "quartet_predicted_wait_seconds",
    "quartet_model_info",
    "quartet_build_info",
    "quartet_drift_psi",
    "quartet_drift_psi_max",
    "quartet_rollout_share",
    "quartet_rollout_stage_start_time_seconds",
    "quartet_shadow_difference",
    "quartet_keys",
    "quartet_file_rejected",
    "process_start_time_seconds",
    *Gpus.names(),
    *store_metrics.WORST,
)
"""What is not added up where several workers have it, but the largest counts: the longest wait, the last start, what all see."""


def joined(texts: Sequence[bytes]) -> bytes:
    """The metrics of several workers, each in Prometheus' text format, as those of one service."""
    families: dict[str, Metric] = {}
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for text in texts:
        for family in text_string_to_metric_families(text.decode()):
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                known = found.get(key)
                found[key] = sample.value if known is None else (max if family.name in WORST else add)(known, sample.value)
                if known is None:
                    families[family.name].samples.append(sample)
    for family in families.values():
        family.samples = [sample._replace(value=found[sample.name, tuple(sample.labels.items())]) for sample in family.samples]
    registry = CollectorRegistry()
    registry.register(_Families(list(families.values())))
    return generate_latest(registry)


class _Families(Collector):
    """Metrics that are there already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """For prometheus_client."""
        return self._families
