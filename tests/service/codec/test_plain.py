from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelrepo.errors import SignatureError
from service.codec import v2
from service.codec.plain import PlainRequests
from service.errors import ServiceError
from tests import micro

SIGNATURES = {"rows": micro.DOUBLE, "sequences": micro.MEAN}
READERS = {name: PlainRequests(signature) for name, signature in SIGNATURES.items()}


@given(
    data=st.data(),
    kind=st.sampled_from(sorted(SIGNATURES)),
    id_=st.sampled_from([None, "7"]),
    parameters=st.sampled_from([None, {}, {"explain": True}]),
)
def test_what_is_taken_is_what_the_whole_decoder_makes_of_it(data, kind, id_, parameters):
    signature = SIGNATURES[kind]
    (spec,) = signature.value_inputs
    shape = data.draw(st.lists(st.integers(0, 13), min_size=len(spec.shape) - 1, max_size=len(spec.shape)), label="shape")
    count = data.draw(st.sampled_from([int(np.prod(shape)), 3]), label="elements")
    number = data.draw(st.sampled_from([1, 1.5, 1e39, True, None, "1"]), label="number")
    tensor = {
        "name": data.draw(st.sampled_from([spec.name, "other"])),
        "shape": shape,
        "datatype": "FP32",
        "data": [number] * count,
    }
    body = json.dumps({"inputs": [tensor], "id": id_, "parameters": parameters}).encode()
    plain = READERS[kind].decode(body, 100)
    try:
        whole = v2.decode(body, None, signature, 100)
        inputs = signature.complete(whole.inputs)
        rows, length = signature.check(inputs)
    except (ServiceError, SignatureError):
        assert plain is None, "what is at fault is left to the decoder that says so"
        return
    assert (plain is None) == bool(parameters)
    if plain is not None:
        assert (plain.request.id, plain.rows, plain.length) == (id_, rows, length)
        assert plain.request.outputs is whole.outputs is None
        assert set(plain.request.inputs) == set(inputs)
        for name, array in inputs.items():
            np.testing.assert_array_equal(plain.request.inputs[name], array)
            assert plain.request.inputs[name].dtype == array.dtype


@pytest.mark.parametrize(
    "change", [{"outputs": [{"name": "logits"}]}, {"parameters": {"timeout": 5}}, {"inputs": []}, {"inputs": [1, 2]}]
)
def test_what_asks_for_more_is_left_to_the_whole_decoder(change):
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    assert READERS["rows"].decode(json.dumps({"inputs": [tensor]}).encode(), 100) is not None
    assert READERS["rows"].decode(json.dumps({"inputs": [tensor], **change}).encode(), 100) is None
