"""What was asked of a remote store, as metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from modelrepo.mirror import Mirror

WORST = ("quartet_store_unreachable", "quartet_store_last_success_timestamp_seconds")
"""Gauges of which the largest counts, where several workers have them."""


class StoreMetrics(Collector):
    """The figures of a mirror. `operation` is look (at what the store has) or fetch (of a version)."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def collect(self) -> Iterator[Metric]:
        """For prometheus_client."""
        traffic, store = self._mirror.traffic, [self._mirror.shown]
        asked = CounterMetricFamily(
            "quartet_store_operations",
            "Looks at the remote store, and versions fetched from it",
            labels=("store", "operation", "result"),
        )
        seconds = CounterMetricFamily("quartet_store_seconds", "Spent on them", labels=("store", "operation"))
        for operation in traffic.seconds:
            asked.add_metric([*store, operation, "succeeded"], traffic.succeeded[operation])
            asked.add_metric([*store, operation, "failed"], traffic.failed[operation])
            seconds.add_metric([*store, operation], traffic.seconds[operation])
        received = CounterMetricFamily("quartet_store_bytes", "Fetched from the remote store", labels=("store",))
        received.add_metric(store, traffic.bytes)
        success = GaugeMetricFamily(
            "quartet_store_last_success_timestamp_seconds", "When it was last asked without failing", labels=("store",)
        )
        success.add_metric(store, traffic.last_success)
        unreachable = GaugeMetricFamily("quartet_store_unreachable", "1 where the last look at it failed", labels=("store",))
        unreachable.add_metric(store, float(bool(self._mirror.outage)))
        yield from (asked, seconds, received, success, unreachable)
