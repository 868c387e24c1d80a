from __future__ import annotations

import numpy as np
import pytest
import torch

from modelrepo.tasks import Binary, Multiclass, Multilabel, Regression
from training import tasks
from training.data import DataError
from training.tasks import Loss, Objective

ABC = Multiclass(labels=("a", "b", "c"))
YES = Binary(labels=("no", "yes"))
TAGS = Multilabel(labels=("x", "y"))
SUM = Regression(targets=("t",))


def losses(task, outputs, targets, train=None, **options):
    targets = np.array(targets)
    objective = Objective(task, Loss(**options), targets if train is None else np.array(train))
    return objective(torch.tensor(outputs), torch.from_numpy(targets)).tolist()


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "loss", "value"),
    [
        # softmax([2, 1, 0.1]) = [0.659, 0.242, 0.099], so the cross-entropy of class 0 is 0.417
        pytest.param(ABC, [[2, 1, 0.1]], np.array([0]), 0.417, 1.0, id="multiclass"),
        pytest.param(YES, [[0.0], [2.0]], np.array([[1], [1]], np.float32), 0.41, 0.5, id="binary"),
        pytest.param(TAGS, [[9.0, -9.0]], np.array([[1, 0]], np.float32), 0.0001, 0.5, id="multilabel"),
        pytest.param(SUM, [[1.0], [3.0]], np.array([[2], [3]], np.float32), 0.5, 0.5, id="regression"),
    ],
)
def test_losses_and_metrics_are_the_textbooks(task, outputs, targets, loss, value):
    outputs = np.array(outputs, np.float32)
    objective = Objective(task, Loss(), targets)
    assert float(objective(torch.from_numpy(outputs), torch.from_numpy(targets)).mean()) == pytest.approx(loss, abs=1e-3)
    assert tasks.metric(task, outputs, targets).value == pytest.approx(value)


def test_label_smoothing_spreads_its_share_over_all_labels():
    logits = [[2.0, 1.0, 0.1]]
    each = [losses(ABC, logits, [label])[0] for label in range(3)]
    assert losses(ABC, logits, [0], label_smoothing=0.3) == pytest.approx([0.7 * each[0] + 0.3 * sum(each) / 3])
    yes, no = (losses(YES, [[1.5]], np.float32([[label]]))[0] for label in (1, 0))
    assert losses(YES, [[1.5]], np.float32([[1]]), label_smoothing=0.2) == pytest.approx([0.9 * yes + 0.1 * no])


def test_class_weights_give_every_label_the_same_weight_in_all():
    train = [0] * 6 + [1] * 3 + [2]
    plain = losses(ABC, [[0.0, 0.0, 0.0]] * 10, train)
    weighted = losses(ABC, [[0.0, 0.0, 0.0]] * 10, train, class_weights=True)
    shares = [sum(w for w, label in zip(weighted, train, strict=True) if label == each) for each in range(3)]
    assert shares == pytest.approx([shares[0]] * 3)
    assert sum(weighted) == pytest.approx(sum(plain)), "so that the learning rate keeps its meaning"


def test_rare_positives_weigh_as_much_as_the_negatives():
    train = np.float32([[1], [0], [0], [0]])
    weighted = losses(YES, [[0.0]] * 4, train, class_weights=True)
    assert weighted[0] == pytest.approx(sum(weighted[1:]))


def test_a_regression_loss_is_in_units_of_the_targets_scale():
    task = Regression(targets=("metres",), mean=(500.0,), scale=(100.0,))
    assert losses(task, [[700.0]], np.float32([[500]])) == pytest.approx([4.0])


def test_huber_counts_large_errors_linearly():
    small, large = losses(SUM, [[0.5], [10.0]], np.float32([[0], [0]]), huber=1.0)
    assert small == pytest.approx(0.5 * 0.5**2)
    assert large == pytest.approx(10 - 0.5)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        pytest.param(SUM, {"label_smoothing": 0.1}, "suit classification", id="smoothing a regression"),
        pytest.param(ABC, {"huber": 1.0}, "--loss.huber suits regression", id="huber on classes"),
        pytest.param(ABC, {"class_weights": True}, "no training row has the label 'c'", id="a label without rows"),
    ],
)
def test_an_option_that_does_not_suit_the_task_is_refused(task, options, message):
    with pytest.raises(DataError, match=message):
        Objective(task, Loss(**options), np.array([0, 1, 1]))


def test_all_metrics_of_a_perfect_classifier_are_perfect():
    truth = np.array([0, 1, 2, 0])
    found = tasks.metrics(ABC, 50 * np.eye(3, dtype=np.float32)[truth], truth)
    assert found == pytest.approx({"accuracy": 1, "macro F1": 1, "AUROC": 1, "calibration error": 0, "log loss": 0}, abs=1e-6)
    assert next(iter(found)) == "accuracy"


def test_a_label_that_never_occurs_leaves_auroc_out_rather_than_make_it_up():
    assert "AUROC" not in tasks.metrics(ABC, np.eye(3, dtype=np.float32), np.array([0, 1, 1]))
    assert "AUROC" not in tasks.metrics(YES, np.float32([[1], [2]]), np.float32([[1], [1]]))
    assert "AUROC" not in tasks.metrics(TAGS, np.float32([[1, 1], [0, 2]]), np.float32([[1, 1], [0, 1]]))


def test_binary_and_multilabel_metrics_are_counted_by_hand():
    binary = tasks.metrics(YES, np.float32([[2], [-1], [1], [-3]]), np.float32([[1], [1], [0], [0]]))
    assert binary["accuracy"] == 0.5
    assert binary["macro F1"] == pytest.approx(0.5)
    assert binary["AUROC"] == pytest.approx(0.75)
    several = tasks.metrics(TAGS, np.float32([[1, -1], [1, 1]]), np.float32([[1, 0], [0, 1]]))
    assert several["exact match"] == 0.5
    assert several["macro F1"] == pytest.approx((2 / 3 + 1) / 2)


def test_regression_metrics_are_in_the_datas_own_units():
    found = tasks.metrics(SUM, np.float32([[1], [2], [5]]), np.float32([[1], [4], [4]]))
    assert found == pytest.approx({"MSE": 5 / 3, "MAE": 1.0, "R2": 1 - 5 / 6})


def overconfident(rows=2000, sharpness=4.0):
    """Logits that are `sharpness` times what the labels were drawn from."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(rows, 3))
    labels = np.array([rng.choice(3, p=p) for p in np.exp(logits) / np.exp(logits).sum(1, keepdims=True)])
    return (sharpness * logits).astype(np.float32), labels


def test_the_temperature_undoes_overconfidence():
    outputs, labels = overconfident()
    task = tasks.calibrated(ABC, outputs, labels)
    assert task.temperature == pytest.approx(4.0, rel=0.1)
    before, after = tasks.metrics(ABC, outputs, labels), tasks.metrics(task, outputs, labels)
    assert after["calibration error"] < 0.3 * before["calibration error"]
    assert after["accuracy"] == before["accuracy"]


def test_without_a_wrong_answer_or_for_regression_the_temperature_is_left_alone():
    truth = np.array([0, 1, 2])
    assert tasks.calibrated(ABC, np.eye(3, dtype=np.float32), truth) == ABC
    assert tasks.calibrated(SUM, np.float32([[1]]), np.float32([[2]])) == SUM


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"label_smoothing": 1.0}, "loss.label_smoothing must be at least 0 and below 1"),
        ({"huber": 0.0}, "loss.huber must be above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        Loss(**option)
