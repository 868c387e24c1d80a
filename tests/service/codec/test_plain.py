from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelrepo.errors import SignatureError
from modelrepo.tensors import Signature, TensorSpec
from service.batch import Ran
from service.codec import v2
from service.codec.plain import PlainAnswers, PlainRequests
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
        assert (plain.id, plain.rows, plain.length) == (id_, rows, length)
        assert whole.outputs is None
        assert set(plain.inputs) == set(inputs)
        for name, array in inputs.items():
            np.testing.assert_array_equal(plain.inputs[name], array)
            assert plain.inputs[name].dtype == array.dtype


SIMPLE = ["1", "-2.5", "3e1", "0.1", "16777217", "9007199254740993"]
TEXTS = [*SIMPLE, "3.4028235e38", "1e39", "true", "false", "null", '"1"', '"]"', ""]
NUMBERS = st.sampled_from(TEXTS) | st.lists(st.sampled_from(TEXTS), max_size=2).map(lambda texts: f"[{','.join(texts)}]")


@given(
    taught=st.sampled_from(
        [
            '{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":%s}]}',
            '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": %s}]}',
            '{"inputs":[{"data":%s,"name":"x","shape":[1,2],"datatype":"FP32"}],"id":null}',
            '{"id":"data","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":%s}]}',
            '{"inputs":[{"more":{"data":%s},"name":"x","shape":[1,2],"datatype":"FP32","data":[5,6]}]}',
            '{"inputs":[{"more":{"data":%s},"name":"x","shape":[1,2],"datatype":"FP32","d\\u0061ta":[5,6]}]}',
            '{"inputs":[{"data":%s,"name":"x","shape":[1,2],"datatype":"FP32","data":[5,6]}]}',
            '{"more":"\\"data\\":%s","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[5,6]}]}',
        ]
    ),
    numbers=st.lists(NUMBERS, min_size=1, max_size=3),
)
def test_where_only_the_numbers_are_new_the_same_is_made_of_them(taught, numbers):
    reader = PlainRequests(micro.DOUBLE)
    reader.decode((taught % "[1,2]").encode(), 100)
    body = (taught % f"[{','.join(numbers)}]").encode()
    plain = reader.decode(body, 100)
    try:
        whole = v2.decode(body, None, micro.DOUBLE, 100)
    except ServiceError:
        assert plain is None
        return
    if plain is None:
        assert not set(numbers) <= set(SIMPLE)
        return
    np.testing.assert_array_equal(plain.inputs["x"], whole.inputs["x"])
    assert plain.inputs["x"].dtype == np.float32
    assert (plain.rows, plain.id) == (len(whole.inputs["x"]), whole.id)


def test_shapes_that_were_met_before_hold_for_as_many_numbers_only():
    reader = PlainRequests(micro.DOUBLE)
    around = '{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":%s}]}'
    assert reader.decode((around % "[1,2,3,4]").encode(), 100).inputs["x"].tolist() == [[1, 2], [3, 4]]
    assert reader.decode((around % "[5,6.5,7,8]").encode(), 100).inputs["x"].tolist() == [[5, 6.5], [7, 8]]
    for other in ("[1,2,true,4]", "[1.5,2,3,false]", "[1,2,3]", "[1,2,3,4,5]", "[]", "[1,2,3,4", "[1,,2,3]", "{}", "1"):
        assert reader.decode((around % other).encode(), 100) is None


@pytest.mark.parametrize(
    "change", [{"outputs": [{"name": "logits"}]}, {"parameters": {"timeout": 5}}, {"inputs": []}, {"inputs": [1, 2]}]
)
def test_what_asks_for_more_is_left_to_the_whole_decoder(change):
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    assert READERS["rows"].decode(json.dumps({"inputs": [tensor]}).encode(), 100) is not None
    assert READERS["rows"].decode(json.dumps({"inputs": [tensor], **change}).encode(), 100) is None


@given(
    outputs=st.dictionaries(st.sampled_from(["logits", "values"]), st.sampled_from(["float32", "int64", "float64"]), min_size=1),
    rows=st.integers(1, 5),
    id_=st.sampled_from([None, 'a "b"']),
    data=st.data(),
)
def test_answers_are_written_as_the_whole_encoder_writes_them(outputs, rows, id_, data):
    specs = tuple(TensorSpec(name=name, dtype=dtype, shape=(micro.BATCH, 3)) for name, dtype in outputs.items())
    signature = Signature(inputs=micro.DOUBLE.inputs, outputs=specs)
    random = np.random.default_rng(rows)
    ran = Ran({spec.name: (random.standard_normal((rows, 3)) * 100).astype(spec.dtype) for spec in specs})
    answers = PlainAnswers('m"', "3", signature)
    start = data.draw(st.integers(0, rows - 1), label="start")
    stop = data.draw(st.integers(start + 1, rows), label="stop")
    own = {name: array[start:stop] for name, array in ran.outputs.items()}
    whole, _ = v2.encode(v2.Request(id_, {}, None, False), 'm"', "3", own)
    assert answers.encode(ran, start, stop, id_) == whole


def test_what_is_no_number_is_left_to_the_whole_encoder():
    answers = PlainAnswers("m", "1", micro.DOUBLE)
    ran = Ran({"logits": np.array([[1, 2], [np.nan, 0]], np.float32)})
    assert answers.encode(ran, 0, 1, None) is None
