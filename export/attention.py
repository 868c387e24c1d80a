"""Attention's translation to ONNX: as few nodes as it has steps, in an order that ONNX Runtime fuses.

torch.onnx's own scales queries and keys apart, transposes the keys by way of three dimensions, and looks for answers that are no
numbers, where a row might look at nothing at all; our rows always look at something.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset20

op: Any = opset20  # its annotations are for graphs written as Python source

AWAY = -65504.0  # added to the scores of positions not to look at: the lowest number of half precision, whose exponential is 0


def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """aten::scaled_dot_product_attention of [N, heads, T, D] each; the mask, true where to look, broadcasts to [N, heads, T, T]."""
    if enable_gqa or (attn_mask is not None and attn_mask.dtype.name != "BOOL"):
        raise NotImplementedError("only as many queries as keys, and a mask of booleans, are translated")
    scale = scale or 1 / math.sqrt(query.shape[3])
    scores = op.Mul(op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2])), op.Constant(value_float=scale))
    if is_causal:
        length = op.Shape(query, start=2, end=3)
        everywhere = op.Expand(op.Constant(value_float=AWAY), op.Concat(length, length, axis=0))
        scores = op.Add(scores, op.Trilu(everywhere, op.Constant(value_int=1), upper=1))  # all that comes later
    elif attn_mask is not None:
        away = op.Where(attn_mask, op.Constant(value_float=0.0), op.Constant(value_float=AWAY))
        scores = op.Add(scores, away)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.scaled_dot_product_attention.default: attention}
