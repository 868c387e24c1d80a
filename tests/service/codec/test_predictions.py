from __future__ import annotations

import json

import numpy as np
import pytest

from modelrepo.tasks import Binary, Multiclass, Multilabel, Regression
from service.batch import Ran
from service.codec.predictions import Predictions
from service.errors import Unprocessable


def answers(task, output, top_k=None):
    return json.loads(encoded(task, np.array(output, np.float32), top_k))["predictions"]


def encoded(task, output, top_k=None, explanation=None):
    return Predictions("m", "1", task).encode(Ran({task.output: output}), 0, len(output), top_k, explanation)


def test_multiclass_answers_are_softmax_sorted():
    # softmax([2, 1, 0.1]) = [0.659, 0.242, 0.099]
    (answer,) = answers(Multiclass(labels=("a", "b", "c")), [[1, 2, 0.1]])
    assert answer["label"] == "b"
    assert [ranked["label"] for ranked in answer["probabilities"]] == ["b", "a", "c"]
    assert [ranked["probability"] for ranked in answer["probabilities"]] == pytest.approx([0.659, 0.242, 0.099], abs=5e-4)


def test_top_k_limits_the_labels_not_the_choice():
    (answer,) = answers(Multiclass(labels=("a", "b", "c")), [[1, 2, 0.1]], top_k=2)
    assert [ranked["label"] for ranked in answer["probabilities"]] == ["b", "a"]


def test_the_temperature_divides_the_logits():
    hot = answers(Multiclass(labels=("a", "b"), temperature=2.0), [[0, 2]])
    assert hot[0]["probabilities"][0]["probability"] == pytest.approx(1 / (1 + np.exp(-1)))


@pytest.mark.parametrize(("logit", "label", "probability"), [(0.5, "yes", 0.6225), (-0.5, "no", 0.6225), (-800, "no", 1.0)])
def test_binary_answers_name_the_likelier_label(logit, label, probability):
    (answer,) = answers(Binary(labels=("no", "yes")), [[logit]])
    assert answer["label"] == label
    assert answer["probabilities"][0] == {"label": label, "probability": pytest.approx(probability, abs=1e-4)}


def test_multilabel_answers_hold_every_label_above_one_half():
    (answer,) = answers(Multilabel(labels=("a", "b", "c")), [[3, -1, 1]])
    assert answer["labels"] == ["a", "c"]
    assert [ranked["label"] for ranked in answer["probabilities"]] == ["a", "c", "b"]


def test_regression_answers_are_values_by_target():
    assert answers(Regression(targets=("low", "high")), [[1.5, 2.5]]) == [{"values": {"low": 1.5, "high": 2.5}}]


def test_an_explanation_stands_beside_the_predictions_where_there_is_one():
    task = Regression(targets=("t",))
    explained = encoded(task, np.ones((1, 1), np.float32), None, {"batch": 4, "queue_ms": 0.5})
    assert json.loads(explained) == {
        "model_name": "m",
        "model_version": "1",
        "predictions": [{"values": {"t": 1}}],
        "explanation": {"batch": 4, "queue_ms": 0.5},
    }
    assert b"explanation" not in encoded(task, np.ones((1, 1), np.float32), None)


def test_callers_that_share_a_run_get_their_own_rows_of_what_is_made_once():
    task = Multiclass(labels=("a", "b"))
    ran = Ran({task.output: np.array([[0, 1], [1, 0], [0, 2]], np.float32)})
    made = Predictions("m", "1", task)
    bodies = [json.loads(made.encode(ran, start, stop))["predictions"] for start, stop in ((0, 1), (1, 3))]
    assert [[row["label"] for row in rows] for rows in bodies] == [["b"], ["a", "b"]]


def test_a_row_that_is_no_number_is_the_error_of_its_own_caller_only():
    task = Multiclass(labels=("a", "b"))
    ran = Ran({task.output: np.array([[0, 1], [np.nan, 0], [1, 0]], np.float32)})
    made = Predictions("m", "1", task)
    assert [json.loads(made.encode(ran, at, at + 1))["predictions"][0]["label"] for at in (0, 2)] == ["b", "a"]
    with pytest.raises(Unprocessable, match="row 0"):
        made.encode(ran, 1, 2)


def test_an_answer_that_is_no_number_names_the_row():
    with pytest.raises(Unprocessable, match="'values' is not a finite number in row 1"):
        answers(Regression(targets=("t",)), [[0], [np.nan]])
