"""explain.onnx: the fp32 graph with what happens inside it as further outputs, proven like every other file."""

from export.internals.make import EXPLAIN, make

__all__ = ["EXPLAIN", "make"]
