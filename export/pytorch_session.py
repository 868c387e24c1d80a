"""PyTorch itself behind the Session interface, to be timed beside the ways to serve; nothing is served by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from modelrepo.tensors import Array, Tensors
from runtime.session import Session
from training.models import Model


class PyTorchSession(Session):
    """A model in fp32 on the GPU where there is one, else on one thread of the CPU; eager, or `compiled` by torch.compile."""

    def __init__(self, model: Model, compiled: bool) -> None:
        """Compiling needs a C++ compiler or, on a GPU, Triton, and happens in the first run, which may raise for want of them."""
        super().__init__(model.signature())
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.provider = f"pytorch-{self._device}"
        net = model.to(self._device, torch.float32).eval()
        self._net: Any = torch.compile(net) if compiled else net
        self._output = model.task.output

    def _run(self, inputs: Mapping[str, Array]) -> Tensors:
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(array.copy()).to(self._device) for name, array in inputs.items()}
            return {self._output: self._net(**tensors).cpu().numpy()}

    def close(self) -> None:
        self._net = None
