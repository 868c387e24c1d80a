"""Bad messages, to every method: each is refused with a reason of its own, and none is taken for a fault of the server's."""

from __future__ import annotations

import os

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.codec import tensor
from service.rpc import codec, messages
from service.rpc.messages import ModelInferRequest, ModelStreamInferResponse
from tests.service.rpc.conftest import SERVICE

EXAMPLES = int(os.environ.get("QUARTET_FUZZ_REQUESTS", "0")) // 4
OTHERS = sorted(
    method.name for method in messages.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods if "Infer" not in method.name
)
FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


def fuzzed(examples):
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


FIELDS = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(2**31), 2**31 - 1),
    "int64_contents": st.integers(-(2**63), 2**63 - 1),
    "uint_contents": st.integers(0, 2**32 - 1),
    "uint64_contents": st.integers(0, 2**64 - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=5),
}
assert set(FIELDS) == set(codec.FIELDS.values())
parameters = st.dictionaries(
    st.sampled_from(["timeout", "priority", "sequence_id", "binary_data", "binary_data_output", "explain", "classification", ""]),
    st.one_of(
        st.booleans().map(lambda value: {"bool_param": value}),
        st.integers(-(2**63), 2**63 - 1).map(lambda value: {"int64_param": value}),
        st.integers(0, 2**64 - 1).map(lambda value: {"uint64_param": value}),
        st.floats().map(lambda value: {"double_param": value}),
        st.text(max_size=5).map(lambda value: {"string_param": value}),
        st.just({}),
    ),
    max_size=3,
)


@st.composite
def requests(draw):
    made = ModelInferRequest(
        model_name=draw(st.sampled_from(["double", "mean", "text", "text", ""])),
        model_version=draw(st.sampled_from(["", "1", "x"])),
    )
    for _ in range(draw(st.integers(0, 3))):
        given_ = made.inputs.add(
            name=draw(st.sampled_from(["x", "sequence", "mask", "tokens", ""])),
            datatype=draw(st.sampled_from([*tensor.KNOWN, "FP32", "FP99", ""])),
            shape=draw(st.lists(st.integers(-1, 3) | st.integers(-(2**63), 2**63 - 1), max_size=4) | st.just([1, 2])),
        )
        for field in draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=2, unique=True)):
            getattr(given_.contents, field).extend(draw(st.lists(FIELDS[field], max_size=4)))
        _fill(given_.parameters, draw(parameters))
    for _ in range(draw(st.integers(0, 2))):
        output = made.outputs.add(name=draw(st.sampled_from(["logits", "values", "z"])))
        _fill(output.parameters, draw(parameters))
    _fill(made.parameters, draw(parameters))
    made.raw_input_contents.extend(draw(st.lists(st.binary(max_size=16), max_size=3)))
    return made.SerializeToString()


def _fill(known, values):
    for name, value in values.items():
        known[name].SetInParent()
        for field, chosen in value.items():
            setattr(known[name], field, chosen)


def check(call, message):
    called = call.future(message, timeout=30)
    assert called.code() not in FAULTS, (called.details(), message)
    assert called.code() == grpc.StatusCode.OK or called.details()


@pytest.fixture(autouse=True)
def _nothing_is_logged_as_a_fault(caplog):
    yield
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@fuzzed(50)
@given(requests() | st.binary(max_size=30))
def test_a_request_that_is_not_right_is_the_callers_fault(channel, message):
    check(channel.unary_unary(SERVICE + "ModelInfer"), message)


@fuzzed(5)
@given(st.lists(requests() | st.binary(max_size=30), min_size=1, max_size=10))
def test_a_stream_answers_every_message_it_gets(channel, sent):
    answers = list(channel.stream_stream(SERVICE + "ModelStreamInfer")(iter(sent), timeout=30))
    assert len(answers) == len(sent)
    for answer in answers:
        assert "internal error" not in ModelStreamInferResponse.FromString(answer).error_message


@fuzzed(20)
@given(st.sampled_from(OTHERS), st.binary(max_size=20))
def test_every_other_method_refuses_what_it_does_not_know(channel, method, message):
    check(channel.unary_unary(SERVICE + method), message)
