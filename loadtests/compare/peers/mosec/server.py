"""Mosec: a front end in Rust, which hands batches of bodies to worker processes."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from mosec import Server, Worker
from network import BATCH, PORT, WINDOW_MS, WORKERS, Network


class Instances(msgspec.Struct):
    """The request."""

    instances: list[Any]


class Predictor(Worker):
    """One process."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()
        self.decoder = msgspec.json.Decoder(Instances)
        self.encoder = msgspec.json.Encoder()

    def deserialize(self, data: bytes) -> list[Any]:
        """A body to rows."""
        return self.decoder.decode(data).instances

    def forward(self, data: list[list[Any]]) -> list[list[list[float]]]:
        """A batch of requests."""
        return self.network.requests(data)

    def serialize(self, data: list[list[float]]) -> bytes:
        """Outputs to a body."""
        return self.encoder.encode({"predictions": data})


if __name__ == "__main__":
    sys.argv[1:] = ["--port", str(PORT), "--address", "127.0.0.1", "--log-level", "warning"]
    server = Server()
    server.append_worker(Predictor, num=WORKERS, max_batch_size=BATCH, max_wait_time=int(WINDOW_MS), route="/predict")
    server.run()
