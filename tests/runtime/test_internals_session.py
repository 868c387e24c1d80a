from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelrepo.errors import WrongTensor
from modelrepo.internals import Internal
from runtime.internals_session import InternalsSession
from runtime.session import SessionError
from tests import micro

HALF = Internal(name="half", kind="states", layer=0, axes=("instance", "unit"), shape=(None, 2))


def test_it_answers_as_others_do_and_with_what_it_is_asked_for_besides(tmp_path):
    micro.write_double(tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    proto.graph.node.append(helper.make_node("Identity", ["x"], ["half"]))
    proto.graph.output.append(helper.make_tensor_value_info("half", TensorProto.FLOAT, ["batch", 2]))
    onnx.save(proto, tmp_path / "m.onnx")
    x = np.array([[1, 2]], np.float32)
    with InternalsSession(tmp_path / "m.onnx", micro.DOUBLE, (HALF,)) as session:
        assert set(session.run({"x": x})) == {"logits"}
        found = session.explain({"x": x}, ["half"])
        np.testing.assert_array_equal(found["logits"], 2 * x)
        np.testing.assert_array_equal(found["half"], x)
        with pytest.raises(WrongTensor, match="unknown input 'y'"):
            session.explain({"y": x}, [])


def test_a_file_without_what_the_manifest_says_is_refused(tmp_path):
    micro.write_double(tmp_path / "m.onnx")
    with pytest.raises(SessionError, match=r"lacks the outputs \['half'\]: export the model again"):
        InternalsSession(tmp_path / "m.onnx", micro.DOUBLE, (HALF,))
