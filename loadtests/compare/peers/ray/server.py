"""Ray Serve: a proxy process, replicas that each batch on their own."""

from __future__ import annotations

import threading
from typing import Any

import orjson
import ray
from network import BATCH, PORT, WINDOW_MS, WORKERS, Network
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

QUIET = {"enable_access_log": False}


@serve.deployment(num_replicas=WORKERS, max_ongoing_requests=4 * BATCH, ray_actor_options={"num_cpus": 1}, logging_config=QUIET)
class Predictor:
    """One replica."""

    def __init__(self) -> None:
        self.network = Network()

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WINDOW_MS / 1000)
    async def predict(self, requests: list[list[Any]]) -> list[list[list[float]]]:
        """A batch of requests."""
        return self.network.requests(requests)

    async def __call__(self, request: Request) -> Response:
        """One request."""
        rows = orjson.loads(await request.body())["instances"]
        return Response(orjson.dumps({"predictions": await self.predict(rows)}), media_type="application/json")


if __name__ == "__main__":
    ray.init(num_cpus=WORKERS + 1, include_dashboard=False, log_to_driver=False, logging_level="warning")
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config=QUIET)
    serve.run(Predictor.bind(), route_prefix="/predict")
    threading.Event().wait()
