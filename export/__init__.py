"""Checkpoint in, published version out: ONNX, TensorRT where it can be had, and the proof that each equals the original."""
