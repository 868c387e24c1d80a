"""From the fp32 file to explain.onnx."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from export.candidates import PLAIN, Made
from export.errors import ConversionError
from export.gates import gate_for
from export.internals.attention import show_attention
from export.internals.convolutions import show_convolutions
from export.internals.graph import Graph
from export.internals.proof import prove
from export.internals.recurrences import show_recurrences
from export.internals.steps import show_outputs_by_step
from export.parity import compare
from modelrepo.internals import Internal
from modelrepo.manifest import Internals
from modelrepo.repository import digest
from modelrepo.tensors import Signature
from runtime.internals_session import InternalsSession
from runtime.session import SessionError
from training.models import Model
from training.models.lstm import LSTM
from training.models.transformer import Transformer

EXPLAIN = "explain.onnx"


def make(made: Made, model: Model, modules: Mapping[str, str]) -> Internals | None:
    """Write explain.onnx beside the fp32 file; None where the model has nothing to show.

    `modules` are the paths of modules by the names of that file's nodes. Raises ConversionError where it cannot be made, answers
    differently from the original, or shows what does not add up; nothing is left behind then.
    """
    path = made.folder / EXPLAIN
    try:
        shown = write(made.folder / PLAIN, model, made.signature, modules, path)
        if not shown:
            return None
        with InternalsSession(path, made.signature, shown) as session:
            if misses := compare(session, made.truth, gate_for("fp32", "onnxruntime", made.gates)).misses:
                raise ConversionError(misses[0])
            prove(session, made.truth)
    except (ConversionError, SessionError) as error:
        path.unlink(missing_ok=True)
        raise ConversionError(str(error)) from error
    return Internals(file=digest(path), outputs=shown)


def write(source: Path, model: Model, signature: Signature, modules: Mapping[str, str], path: Path) -> tuple[Internal, ...]:
    """Write the graph of `source` with more outputs to `path`, and say which; nothing where there are none.

    Raises ConversionError.
    """
    graph = Graph(source, model, modules)
    show_convolutions(graph, signature.length.max if signature.length else None)
    if isinstance(model, LSTM):
        show_recurrences(graph, model)
    if isinstance(model, Transformer):
        show_attention(graph, model)
    show_outputs_by_step(graph, model)
    if graph.internals:
        try:
            graph.save(path)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ConversionError(f"the graph that shows the inside is not valid ONNX: {error}") from error
    return tuple(graph.internals)
