"""PyTriton: the Triton server itself, with its Python backend (the wheel holds no other)."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable
from typing import Any

import numpy as np
from network import BATCH, PORT, WINDOW_MS, WORKERS, Network
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def instance(network: Network) -> Callable[..., Any]:
    """A callable for one instance of the model."""

    @batch
    def predict(**inputs: np.ndarray) -> list[np.ndarray]:
        return [network.array(inputs[network.input])]

    return predict


if __name__ == "__main__":
    # Triton embeds Python: by the library of this interpreter, not by another one that the system may have.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    networks = [Network() for _ in range(WORKERS)]
    first = networks[0]
    shape = tuple(size if isinstance(size, int) else -1 for size in first.shape[1:])
    config = TritonConfig(http_address="127.0.0.1", http_port=PORT, allow_grpc=False, allow_metrics=False)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="m",
            infer_func=[instance(network) for network in networks],
            inputs=[Tensor(name=first.input, dtype=first.dtype.type, shape=shape)],
            outputs=[Tensor(name=first.output, dtype=np.float32, shape=(first.outputs,))],
            config=ModelConfig(max_batch_size=BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=int(WINDOW_MS * 1000))),
        )
        triton.serve()
