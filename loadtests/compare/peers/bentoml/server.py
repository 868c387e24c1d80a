"""BentoML: worker processes, each with a dispatcher that learns how long to wait for a batch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import bentoml
from network import BATCH, PORT, WORKERS, Network

LATENCY_MS = 1000  # that BentoML may take for a request before it refuses; it chooses its own window below that


@bentoml.service(workers=WORKERS, traffic={"timeout": 30}, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Predictor:
    """One worker process."""

    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api(route="/predict", batchable=True, max_batch_size=BATCH, max_latency_ms=LATENCY_MS)
    def predict(self, instances: list[Any]) -> list[list[float]]:
        """Rows, of which a batch holds those of several requests."""
        return self.network.rows(instances)


if __name__ == "__main__":
    folder = str(Path(__file__).parent)
    bento = str(Path(sys.executable).with_name("bentoml"))
    os.execv(bento, [bento, "serve", "server:Predictor", "--working-dir", folder, "--host", "127.0.0.1", "--port", str(PORT)])
