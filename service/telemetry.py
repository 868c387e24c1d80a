"""What watches the process and its requests, beside the metrics themselves."""

from __future__ import annotations

from service.lag import Lag
from service.metrics import Metrics


class Telemetry:
    """Begins once an event loop runs, and ends when the last request is answered."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self._lag = Lag(metrics.loop_lag)

    def start(self) -> None:
        """Watch the running loop."""
        self._lag.start()

    async def stop(self) -> None:
        """Watch no more."""
        self._lag.stop()
