from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelrepo.errors import OutOfRange, WrongTensor
from modelrepo.tensors import Bounds, ShapeRange, Signature, TensorSpec

BATCH = ShapeRange(axis="batch", min=1, opt=8, max=64)
LENGTH = ShapeRange(axis="length", min=2, opt=10, max=17)
TOKENS = Signature(
    inputs=(
        TensorSpec(name="tokens", dtype="int64", shape=(BATCH, LENGTH), bounds=Bounds(min=0, max=99)),
        TensorSpec(name="mask", dtype="bool", shape=(BATCH, LENGTH), role="mask"),
    ),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(BATCH, 3)),),
)


def tokens(rows: int = 2, length: int = 5) -> dict[str, np.ndarray]:
    return {"tokens": np.ones((rows, length), np.int64), "mask": np.ones((rows, length), np.bool_)}


def ranges(axis: str) -> st.SearchStrategy[ShapeRange]:
    return st.lists(st.integers(1, 300), min_size=3, max_size=3).map(
        lambda sizes: ShapeRange(axis=axis, **dict(zip(("min", "opt", "max"), sorted(sizes), strict=True)))
    )


@given(ranges("length") | ranges("batch"), st.data())
def test_every_size_in_a_range_has_a_bucket_that_holds_it(span, data):
    size = data.draw(st.integers(span.min, span.max))
    bucket = span.bucket(size)
    assert size <= bucket <= span.max
    assert bucket in span.buckets


@given(ranges("length"), st.data())
def test_a_length_bucket_adds_at_most_half_the_length(span, data):
    size = data.draw(st.integers(span.min, span.max))
    assert span.bucket(size) <= max(span.min, 1.5 * size)


def test_batch_buckets_double():
    assert BATCH.buckets == (1, 2, 4, 8, 16, 32, 64)


def test_a_size_beyond_the_maximum_has_no_bucket():
    with pytest.raises(OutOfRange, match="batch 65 is more than the model's maximum, 64"):
        BATCH.bucket(65)


def test_a_range_out_of_order_is_refused():
    with pytest.raises(ValidationError, match="min <= opt <= max, not 4, 2, 8"):
        ShapeRange(axis="batch", min=4, opt=2, max=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"shape": (3, BATCH)}, "batch as its first axis", id="batch not first"),
        pytest.param({"shape": (BATCH, BATCH)}, "batch as its first axis", id="batch twice"),
        pytest.param({"role": "mask"}, "mask 'x' must be a bool tensor", id="mask of numbers"),
        pytest.param({"dtype": "float32", "bounds": Bounds(min=0, max=1)}, "only integer tensors", id="bounds on floats"),
        pytest.param({"dtype": "float31"}, "float31", id="unknown dtype"),
        pytest.param({"name": "a b"}, "pattern", id="name with a space"),
    ],
)
def test_a_tensor_spec_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        TensorSpec(**{"name": "x", "dtype": "int64", "shape": (BATCH, 3), **change})


def test_tensors_of_one_signature_share_their_ranges():
    other = ShapeRange(axis="batch", min=1, opt=1, max=2)
    with pytest.raises(ValidationError, match="share one batch range"):
        Signature(inputs=TOKENS.inputs, outputs=(TensorSpec(name="y", dtype="float32", shape=(other, 3)),))


def test_check_tells_rows_and_length():
    assert TOKENS.check(tokens(rows=3, length=7)) == (3, 7)


def test_more_rows_than_one_batch_pass_the_check():
    assert TOKENS.check(tokens(rows=1000)) == (1000, 5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param({"extra": np.zeros(1)}, WrongTensor, "unknown input 'extra'; this model takes 'tokens', 'mask'", id="unknown"),
        pytest.param({"mask": None}, WrongTensor, "input 'mask' is missing", id="missing"),
        pytest.param({"tokens": np.ones((2, 5))}, WrongTensor, "'tokens' is float64; send it as int64", id="dtype"),
        pytest.param(
            {"tokens": np.ones(5, np.int64)}, WrongTensor, r"shape \[5\]; the model takes int64 \[batch, length\]", id="rank"
        ),
        pytest.param({"mask": np.ones((3, 5), bool)}, WrongTensor, "'mask' has batch 3 and input 'tokens' has 2", id="other batch"),
        pytest.param(
            {"mask": np.ones((2, 6), bool)}, WrongTensor, "'mask' has length 6 and input 'tokens' has 5", id="other length"
        ),
    ],
)
def test_a_tensor_of_another_kind_is_a_wrong_tensor(change, error, message):
    inputs = {name: array for name, array in {**tokens(), **change}.items() if array is not None}
    with pytest.raises(error, match=message):
        TOKENS.check(inputs)


@pytest.mark.parametrize(("rows", "length"), [(0, 5), (1, 1), (1, 18)])
def test_a_size_the_model_does_not_take_is_out_of_range(rows, length):
    with pytest.raises(OutOfRange, match=r"'tokens' has (batch|length) \d+; the model takes"):
        TOKENS.check(tokens(rows, length))


def test_an_id_outside_the_vocabulary_is_named_with_its_place():
    inputs = tokens()
    inputs["tokens"][1, 3] = 100
    with pytest.raises(OutOfRange, match=r"'tokens' holds 100 at \[1, 3\]; values go from 0 to 99"):
        TOKENS.check_values(inputs)


def test_a_mask_with_a_hole_is_refused():
    inputs = tokens()
    inputs["mask"][1, 2] = False
    with pytest.raises(OutOfRange, match="'mask' row 1 has a hole"):
        TOKENS.check_values(inputs)


def test_a_mask_that_leaves_too_little_is_refused():
    inputs = tokens()
    inputs["mask"][0, 1:] = False
    with pytest.raises(OutOfRange, match="'mask' marks 1 positions of row 0 as real; the model takes at least 2"):
        TOKENS.check_values(inputs)


def test_a_missing_mask_is_completed_with_all_real():
    complete = TOKENS.complete({"tokens": tokens()["tokens"]})
    assert complete["mask"].shape == (2, 5)
    assert complete["mask"].all()


def test_resizing_pads_with_zeros_and_cuts_the_end():
    spec = TOKENS.inputs[0]
    array = np.arange(1, 7).reshape(2, 3)
    assert spec.resized(array, 5).tolist() == [[1, 2, 3, 0, 0], [4, 5, 6, 0, 0]]
    assert spec.resized(array, 2).tolist() == [[1, 2], [4, 5]]
    assert spec.resized(array, 3) is array
