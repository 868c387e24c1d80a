"""What every peer does with its model: an ONNX Runtime session with one thread, over rows as they stand in JSON.

Settings come from the environment: `MODEL`, the ONNX file; `PORT`; `WORKERS`, processes; `WINDOW_MS`, how long a batch waits
for more; `BATCH`, how many requests it takes at most.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime

PORT = int(os.environ.get("PORT", "8000"))
WORKERS = int(os.environ.get("WORKERS", "1"))
WINDOW_MS = float(os.environ.get("WINDOW_MS", "2"))
BATCH = int(os.environ.get("BATCH", "64"))


class Network:
    """The model. A request is a list of rows; sequences are lists of different lengths."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        values, *mask = self._session.get_inputs()
        self.input: str = values.name
        self.shape: list[Any] = values.shape
        self.dtype = np.dtype(np.int64 if "int64" in values.type else np.float32)
        self.output: str = self._session.get_outputs()[0].name
        self.outputs: int = self._session.get_outputs()[0].shape[1]
        self._masked = bool(mask)

    def requests(self, requests: list[list[Any]]) -> list[list[list[float]]]:
        """The outputs of several requests, computed in one batch."""
        ends = np.cumsum([0, *map(len, requests)])
        outputs = self.rows([row for request in requests for row in request])
        return [outputs[start:end] for start, end in pairwise(ends)]

    def rows(self, rows: list[Any]) -> list[list[float]]:
        """The outputs of rows; sequences are padded to the longest."""
        if not self._masked:
            return self.array(np.asarray(rows, self.dtype)).tolist()
        lengths = np.array([len(row) for row in rows])
        mask = np.arange(lengths.max()) < lengths[:, None]
        values = np.zeros(mask.shape, self.dtype)
        values[mask] = np.concatenate(rows)
        return self.array(values, mask).tolist()

    def array(self, values: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Rows [N, …] to outputs [N, outputs]; without a mask every position is real."""
        inputs = {self.input: values}
        if self._masked:
            inputs["mask"] = np.ones(values.shape[:2], bool) if mask is None else mask
        return self._session.run([self.output], inputs)[0]
