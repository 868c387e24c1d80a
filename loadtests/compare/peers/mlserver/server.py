"""MLServer: the Open Inference Protocol under uvicorn, worker processes, adaptive batching."""

from __future__ import annotations

import asyncio

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import install_uvloop_event_loop
from network import BATCH, PORT, WINDOW_MS, WORKERS, Network


class Predictor(MLModel):
    """The model in one worker process."""

    async def load(self) -> bool:
        """Open it."""
        self.network = Network()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """A batch, whose rows MLServer has joined already."""
        values = NumpyCodec.decode_input(payload.inputs[0]).astype(self.network.dtype, copy=False)
        answer = NumpyCodec.encode_output(self.network.output, self.network.array(values))
        return InferenceResponse(model_name=self.name, outputs=[answer])


async def main() -> None:
    """Serve until told to stop."""
    server = MLServer(
        Settings(
            debug=False,
            host="127.0.0.1",
            http_port=PORT,
            grpc_port=PORT + 1,
            metrics_endpoint=None,
            parallel_workers=WORKERS,
            gzip_enabled=False,
        )
    )
    batching = {"max_batch_size": BATCH, "max_batch_time": WINDOW_MS / 1000}
    await server.start([ModelSettings(name="m", implementation="server.Predictor", **batching)])


if __name__ == "__main__":
    install_uvloop_event_loop()
    asyncio.run(main())
