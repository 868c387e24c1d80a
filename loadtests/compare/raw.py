"""The ceiling of the hardware: ONNX Runtime called in a loop, with no server around it."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import onnxruntime

from modelrepo.tensors import Tensors

WARM_UP = 0.5  # seconds
MANY = 32  # rows of a larger batch


def rows_per_second(onnx: Path, batches: list[Tensors], processes: int, seconds: float) -> float:
    """Rows a second of that many processes together, each with one thread and a session of its own, over these batches in turn."""
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(processes), context.SimpleQueue()
    workers = [context.Process(target=_loop, args=(onnx, batches, seconds, barrier, rates), daemon=True) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise RuntimeError(f"a process that ran {onnx} ended with status {worker.exitcode}")
    total: float = sum(rates.get() for _ in workers)
    return total


def session(onnx: Path) -> onnxruntime.InferenceSession:
    """A session with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])


def _loop(onnx: Path, batches: list[Tensors], seconds: float, barrier: Barrier, rates: SimpleQueue[float]) -> None:
    run = session(onnx).run
    for length in (WARM_UP, seconds):
        barrier.wait()
        rows = turn = 0
        started = time.perf_counter()
        while (passed := time.perf_counter() - started) < length:
            batch = batches[turn % len(batches)]
            run(None, batch)
            rows += len(next(iter(batch.values())))
            turn += 1
    rates.put(rows / passed)
