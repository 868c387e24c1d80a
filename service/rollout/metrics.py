"""The metrics of rollouts, on the service's own registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from service.rollout.comparison import Difference
from service.rollout.state import CAUSES, Ending, Rollout
from service.tally import Counter

MODEL = ("model", "version")


class RolloutMetrics:
    """Declared once. What is counted is counted by one worker; a gauge of several is the largest (`metrics.WORST`)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        on = registry
        self._share = Gauge(
            "quartet_rollout_share",
            "Share of a model's requests that a version gets which is being rolled out, or of which it gets a copy",
            (*MODEL, "stage"),
            registry=on,
        )
        self._since = Gauge(
            "quartet_rollout_stage_start_time_seconds", "When the present stage began, since the epoch", MODEL, registry=on
        )
        self._endings = Counter(
            "quartet_rollouts", "Rollouts that ended: promoted or rolled back, and why", ("model", "result", "cause"), registry=on
        )
        self._copies = Counter("quartet_shadow_copies", "Requests copied, by what became of it", (*MODEL, "result"), registry=on)
        self._rows = Counter("quartet_shadow_rows", "Rows of which both versions' answers were compared", MODEL, registry=on)
        self._unlike = Counter(
            "quartet_shadow_unlike_rows",
            "Of those: further apart than the tolerance (differing), decided otherwise (disagreeing)",
            (*MODEL, "kind"),
            registry=on,
        )
        self._largest = Gauge(
            "quartet_shadow_difference", "The largest between two answers in this stage, in the task's unit", MODEL, registry=on
        )

    def under_way(self, model: str, rollout: Rollout) -> None:
        """A rollout stands where it says."""
        labels = (model, str(rollout.candidate))
        stage = rollout.stage
        self._share.labels(*labels, "proposed" if stage is None else stage.mode).set(0.0 if stage is None else stage.share)
        self._since.labels(*labels).set(rollout.since)
        for cause in CAUSES:  # a rise from 0 shows only where there was a 0
            self._endings.labels(model, "rolled_back", cause)
        for cause in ("order", "limits"):
            self._endings.labels(model, "promoted", cause)

    def over(self, model: str, version: int) -> None:
        """A version is not being rolled out, or is elsewhere."""
        for mode in ("proposed", "shadow", "canary"):
            self._share.remove(model, str(version), mode)
        self._since.remove(model, str(version))

    def ended(self, model: str, ending: Ending) -> None:
        """This worker has ended a rollout."""
        self._endings.labels(model, ending.result.replace(" ", "_"), ending.cause).inc()

    def shadow(self, model: str, version: str) -> ShadowMetrics:
        """What counts the copies that a version gets."""
        return ShadowMetrics(self._copies, self._rows, self._unlike, self._largest, (model, version))


class ShadowMetrics:
    """Those of one version, looked up once."""

    def __init__(self, copies: Counter, rows: Counter, unlike: Counter, largest: Gauge, labels: tuple[str, str]) -> None:
        results = ("compared", "failed", "full", "refused")
        self._copies = {result: copies.labels(*labels, result) for result in results}
        self._rows = rows.labels(*labels)
        self._differing = unlike.labels(*labels, "differing")
        self._disagreeing = unlike.labels(*labels, "disagreeing")
        self._largest = largest
        self._labels = labels
        self._most = 0.0
        largest.labels(*labels).set(0.0)

    def compared(self, found: Difference) -> None:
        """Rows of one copy."""
        self._copies["compared"].inc()
        self._rows.inc(found.rows)
        self._differing.inc(found.differing)
        self._disagreeing.inc(found.disagreeing)
        if found.largest > self._most:
            self._most = found.largest
            self._largest.labels(*self._labels).set(found.largest)

    def failed(self) -> None:
        """The candidate could not compute a copy."""
        self._copies["failed"].inc()

    def dropped(self, reason: str) -> None:
        """There was no room: `full` or `refused`."""
        self._copies[reason].inc()

    def over(self) -> None:
        """The stage has ended: its gauge goes, the counters stay."""
        self._largest.remove(*self._labels)
