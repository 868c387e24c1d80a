from __future__ import annotations

import numpy as np
import pytest

from runtime.goldens import GoldenMismatch, costs, prove
from runtime.session import Session, promised_shapes
from tests import micro


class Recorder(Session):
    """Answers by arithmetic, records the shapes it was run at, and can be told to err."""

    provider = "recorder"

    def __init__(self, signature, answer):
        super().__init__(signature)
        self.shapes = []
        self._answer = answer

    def _run(self, inputs):
        first = next(iter(inputs.values()))
        self.shapes.append((first.shape[0], first.shape[1] if self.signature.length else None))
        return self._answer(inputs)

    def close(self):
        pass


X = {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}
MASK = np.arange(6) < np.array([2, 6])[:, None]
SEQUENCES = {"sequence": np.arange(12, dtype=np.float32).reshape(2, 6, 1) * MASK[:, :, None], "mask": MASK}


@pytest.mark.parametrize(
    ("signature", "answer", "inputs"),
    [pytest.param(micro.DOUBLE, micro.double, X, id="rows"), pytest.param(micro.MEAN, micro.mean, SEQUENCES, id="sequences")],
)
def test_proving_runs_every_promised_shape_so_the_session_is_warm(signature, answer, inputs):
    session = Recorder(signature, answer)
    assert prove(session, inputs, answer(inputs), 1e-3) < 1e-6
    assert session.shapes == list(promised_shapes(signature))


def test_costs_are_measured_for_every_promised_shape():
    session = Recorder(micro.MEAN, micro.mean)
    measured = costs(session, SEQUENCES)
    assert set(measured) == set(promised_shapes(micro.MEAN))
    assert all(seconds > 0 for seconds in measured.values())


def test_the_largest_shape_comes_first():
    assert next(promised_shapes(micro.MEAN)) == (8, 12)


def test_a_wrong_answer_names_where_and_how_far():
    session = Recorder(micro.DOUBLE, lambda inputs: {"logits": inputs["x"] * 2 + 0.5})
    with pytest.raises(GoldenMismatch, match=r"recorder differs from PyTorch by 0.5 in 'logits' at batch 8; 0.001 is allowed"):
        prove(session, X, micro.double(X), 1e-3)


def test_an_answer_wrong_at_one_batch_size_only_is_found():
    def answer(inputs):
        return {"logits": inputs["x"] * (2 if len(inputs["x"]) != 4 else 3)}

    with pytest.raises(GoldenMismatch, match="at batch 4"):
        prove(Recorder(micro.DOUBLE, answer), X, micro.double(X), 1e-3)


def test_padding_that_leaks_into_an_answer_is_found():
    def answer(inputs):
        return {"values": inputs["sequence"].mean(axis=1)}

    with pytest.raises(GoldenMismatch, match="at batch 8, length 12"):
        prove(Recorder(micro.MEAN, answer), SEQUENCES, micro.mean(SEQUENCES), 1e-3)


def test_nan_never_passes():
    session = Recorder(micro.DOUBLE, lambda inputs: {"logits": inputs["x"] * np.float32("nan")})
    with pytest.raises(GoldenMismatch, match="differs from PyTorch by nan"):
        prove(session, X, micro.double(X), 1e-3)
