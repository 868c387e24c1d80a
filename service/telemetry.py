"""What watches the process and its requests, beside the metrics themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.access import AccessLog
from service.lag import Lag
from service.metrics import Metrics

if TYPE_CHECKING:
    from service.otel import Tracing


class Telemetry:
    """Begins once all is loaded, and ends when the last request is answered."""

    def __init__(self, metrics: Metrics, tracing: Tracing | None, access: AccessLog | None) -> None:
        """What is off is None."""
        self.metrics = metrics
        self.tracing = tracing
        self.access = access
        self._lag = Lag(metrics.loop_lag)

    def start(self) -> None:
        """Watch the running loop."""
        self._lag.start()

    async def stop(self) -> None:
        """Watch no more."""
        self._lag.stop()
        if self.tracing is not None:
            await self.tracing.stop()
