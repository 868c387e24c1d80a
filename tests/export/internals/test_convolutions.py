"""However large the pictures and however many the convolutions, what is shown of them stays small."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export.internals.convolutions import MAP_NUMBERS, MOST, show_convolutions
from export.internals.graph import Graph


def shown(path, nodes, weights, shape):
    """The internals of a graph of convolutions one after the other, and its session."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *shape])
    last = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "convolutions", [image], [last], [numpy_helper.from_array(w, n) for n, w in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    made = Graph(path, nn.Module(), {})
    show_convolutions(made, None)
    made.save(path)
    return {internal.name: internal for internal in made.internals}, onnxruntime.InferenceSession(path)


def test_large_maps_are_averaged_down_and_many_channels_are_cut(tmp_path):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(40, 3, 1, 1)).astype(np.float32)
    node = helper.make_node("Conv", ["image", "w"], ["maps"])
    internals, session = shown(tmp_path / "m.onnx", [node], {"w": weights}, (3, 130, 100))
    maps = internals["conv1"]
    assert maps.shape == (None, 23, 43, 33)
    assert maps.description == "each pixel the mean of 3x3; the first 23 of 40 channels"
    assert maps.numbers(1, 0) <= MAP_NUMBERS
    image = rng.normal(size=(2, 3, 130, 100)).astype(np.float32)
    found = session.run(["conv1"], {"image": image})[0]
    whole = np.einsum("fc,nchw->nfhw", weights[:23, :, 0, 0], image)[:, :, :129, :99]
    np.testing.assert_allclose(found, whole.reshape(2, 23, 43, 3, 33, 3).mean((3, 5)), atol=1e-5)


def test_of_the_first_kernels_as_many_are_shown_as_fit_and_of_others_all_or_none(tmp_path):
    weights = {
        "w": np.zeros((100, 3, 9, 9), np.float32),
        "v": np.zeros((2, 100, 9, 9), np.float32),
        "u": np.zeros((1, 2, 1, 1), np.float32),
    }
    names = ["image", "a", "b", "c"]
    nodes = [helper.make_node("Conv", [names[at], weight], [names[at + 1]]) for at, weight in enumerate(weights)]
    internals, _ = shown(tmp_path / "m.onnx", nodes, weights, (3, 32, 32))
    assert internals["conv1.kernels"].shape == (33, 3, 9, 9)
    assert internals["conv1.kernels"].description == "the first 33 of 100 filters"
    assert "conv2.kernels" not in internals
    assert internals["conv3.kernels"].shape == (1, 2, 1, 1)


def test_of_very_many_convolutions_some_are_shown_the_first_and_last_among_them(tmp_path):
    count = 2 * MOST
    nodes = [helper.make_node("Conv", [f"x{at}" if at else "image", "w"], [f"x{at + 1}"]) for at in range(count)]
    internals, _ = shown(tmp_path / "m.onnx", nodes, {"w": np.zeros((1, 1, 1, 1), np.float32)}, (1, 4, 4))
    layers = [internal.layer for internal in internals.values() if internal.kind == "feature_maps"]
    assert len(layers) == MOST
    assert (layers[0], layers[-1]) == (0, count - 1)
