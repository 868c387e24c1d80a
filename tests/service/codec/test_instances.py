from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelrepo.tensors import Signature, TensorSpec
from service.codec import instances
from service.errors import InvalidRequest, PayloadTooLarge, Unprocessable
from tests import micro


def decode(signature, **request):
    """What a reader makes of it: all rows at once where that works, else one by one."""
    body = json.dumps(request).encode()
    return instances.Numbers(signature).decode(body, 100) or instances.decode(body, signature, 100)


def test_instances_become_one_batch():
    read = decode(micro.DOUBLE, instances=[[1, 2], {"x": [3, 4]}], top_k=1, explain=True)
    assert read.inputs["x"].tolist() == [[1, 2], [3, 4]]
    assert read.inputs["x"].dtype == np.float32
    assert (read.top_k, read.explain) == (1, True)


def test_options_are_the_same_where_rows_are_decoded_together():
    assert decode(micro.DOUBLE, instances=[[1, 2]], top_k=1, explain=True)[1:3] == (1, True)
    assert decode(micro.DOUBLE, instances=[[1, 2]])[1:3] == (None, False)
    assert decode(micro.DOUBLE, instances=[[1, 2]], top_k=None, explain=None)[1:3] == (None, False)


def test_sequences_of_different_lengths_are_padded_and_masked():
    inputs = decode(micro.MEAN, instances=[[[1], [2], [3]], [[4]]]).inputs
    assert inputs["sequence"][:, :, 0].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert inputs["mask"].tolist() == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize(
    ("signature", "request_", "error", "message"),
    [
        pytest.param(micro.DOUBLE, {"instances": []}, InvalidRequest, "instances is empty", id="no rows"),
        pytest.param(
            micro.DOUBLE, {"inputs": []}, InvalidRequest, r'unknown field `inputs`.*\{"instances"', id="the other protocol"
        ),
        pytest.param(micro.DOUBLE, {"instances": [[1, 2]], "top_k": "1"}, InvalidRequest, "got `str`.*top_k", id="top_k as text"),
        pytest.param(
            micro.DOUBLE, {"instances": [[1, 2], [3]]}, InvalidRequest, r"instance 1, 'x': found shape \[1\]; expected", id="short"
        ),
        pytest.param(
            micro.DOUBLE, {"instances": [[1, "2"]]}, InvalidRequest, "instance 0, 'x': Expected `float`, got `str`", id="text"
        ),
        pytest.param(
            micro.DOUBLE, {"instances": [5]}, InvalidRequest, r"instance 0, 'x': Expected `array`.*float32 \[2\]", id="scalar"
        ),
        pytest.param(
            micro.DOUBLE, {"instances": [{"y": [1, 2]}]}, InvalidRequest, r"keys \['y'\]; it needs \['x'\]", id="other key"
        ),
        pytest.param(micro.MEAN, {"instances": [[[1]], []]}, Unprocessable, "instance 1 has length 0; the model takes", id="empty"),
        pytest.param(
            micro.MEAN, {"instances": [[[1]] * 13]}, Unprocessable, "instance 0 has length 13; the model takes 1 to 12", id="long"
        ),
    ],
)
def test_a_request_that_cannot_be_read_names_the_instance(signature, request_, error, message):
    with pytest.raises(error, match=message):
        decode(signature, **request_)


@pytest.mark.parametrize("body", [b"", b"null", b"[", b'{"instances": [' + b"[" * 50_000, b"\xff\xfe"])
def test_a_body_that_is_no_request_is_invalid(body):
    with pytest.raises(InvalidRequest, match="the request is not valid"):
        instances.decode(body, micro.DOUBLE, 100)


def test_bytes_that_are_no_text_are_invalid_wherever_they_stand():
    for body in (b'{"instances":[{"\xff":1}]}', b'{"instances":["\xff"]}', b'{"\xff":1}', b'{"instances":[[1,"\xff"]]}'):
        with pytest.raises(InvalidRequest):
            instances.decode(body, micro.DOUBLE, 100)


def test_more_instances_than_are_taken_at_once_are_refused():
    with pytest.raises(PayloadTooLarge, match="the request has 101 rows; at most 100 are taken at once"):
        decode(micro.DOUBLE, instances=["never read"] * 101)


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32).map(lambda x: [x]), min_size=1, max_size=12), min_size=1, max_size=8))
def test_rows_decoded_together_are_the_rows_decoded_one_by_one(instances):
    together = decode(micro.MEAN, instances=instances).inputs
    alone = decode(micro.MEAN, instances=[{"sequence": instance} for instance in instances]).inputs
    for name in ("sequence", "mask"):
        np.testing.assert_array_equal(together[name], alone[name])
        assert together[name].dtype == alone[name].dtype


def test_several_inputs_need_objects():
    pair = Signature(
        inputs=tuple(TensorSpec(name=name, dtype="float32", shape=(micro.BATCH,)) for name in ("a", "b")),
        outputs=micro.DOUBLE.outputs,
    )
    assert decode(pair, instances=[{"a": 1, "b": 2}]).inputs["b"].tolist() == [2]
    with pytest.raises(InvalidRequest, match="instance 0 must be an object with the keys a, b"):
        decode(pair, instances=[1])
