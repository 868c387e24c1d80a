"""LitServe: uvicorn in front, worker processes behind ZeroMQ, batches formed by the workers."""

from typing import Any

import litserve
from fastapi import Request
from network import BATCH, PORT, WINDOW_MS, WORKERS, Network


class Predictor(litserve.LitAPI):
    """One worker process."""

    def setup(self, device: str) -> None:
        """Open the model."""
        self.network = Network()

    def decode_request(self, request: Request) -> Any:  # by this type LitServe knows to read JSON
        """A body, parsed, to rows."""
        return request["instances"]

    def batch(self, inputs: list[list[Any]]) -> list[list[Any]]:
        """Nothing to do: the network joins them."""
        return inputs

    def predict(self, batch: list[list[Any]]) -> list[list[list[float]]]:
        """A batch of requests."""
        return self.network.requests(batch)

    def unbatch(self, output: list[list[list[float]]]) -> list[list[list[float]]]:
        """Nothing to do: one entry for each request."""
        return output

    def encode_response(self, output: list[list[float]]):  # noqa: ANN201 - LitServe would make it the response model
        """Outputs to a body."""
        return {"predictions": output}


if __name__ == "__main__":
    api = Predictor(max_batch_size=BATCH, batch_timeout=WINDOW_MS / 1000, api_path="/predict")
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=WORKERS, fast_queue=True)
    server.run(host="127.0.0.1", port=PORT, num_api_servers=1, log_level="warning", generate_client_file=False, access_log=False)
