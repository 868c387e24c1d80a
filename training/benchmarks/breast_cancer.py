"""A multilayer perceptron against logistic regression on 569 tumours: 5 folds, stratified, always the same.

Both see standardised measurements of the fold's training rows alone. The perceptron's settings, those of the preset, were
chosen by cross-validation within training rows; the strength of regularisation of the regression is chosen so here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import numpy.typing as npt
import tyro
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modelrepo.tasks import Binary
from training.benchmarks.trial import show, train
from training.config import breast_cancer_mlp
from training.data.dataset import Dataset, Rows, Split, numeric

Scores = tuple[float, float]  # accuracy and AUROC
Features, Labels = npt.NDArray[np.float64], npt.NDArray[np.int64]


def main(seeds: int = 3) -> None:
    """Judge both on each fold.

    Args:
        seeds: Runs of the perceptron on each fold.
    """
    bunch = load_breast_cancer()
    scores: dict[str, list[Scores]] = {}
    for train_rows, test_rows in StratifiedKFold(5, shuffle=True, random_state=0).split(bunch.data, bunch.target):
        rows = (bunch.data[train_rows], bunch.target[train_rows], bunch.data[test_rows], bunch.target[test_rows])
        for name, chosen in (("logistic regression, C = 1", False), ("logistic regression, C chosen within", True)):
            scores.setdefault(name, []).append(regression(*rows, chosen=chosen))
        dataset = fold(*rows)
        for seed in range(seeds):
            facts = train(replace(breast_cancer_mlp(Path("breast-cancer")), seed=seed), dataset)
            scores.setdefault("MLP, preset breast-cancer-mlp", []).append((facts.metrics["accuracy"], facts.metrics["AUROC"]))
    means = {name: (mean(accuracy for accuracy, _ in found), mean(area for _, area in found)) for name, found in scores.items()}
    beaten = means["logistic regression, C = 1"]
    show(
        f"Breast cancer, mean of 5 folds and, for the perceptron, {seeds} seeds",
        ("model", "accuracy", "difference", "AUROC", "difference"),
        [
            (name, f"{accuracy:.4f}", f"{accuracy - beaten[0]:+.4f}", f"{area:.4f}", f"{area - beaten[1]:+.4f}")
            for name, (accuracy, area) in means.items()
        ],
    )


def regression(x: Features, y: Labels, test_x: Features, test_y: Labels, *, chosen: bool) -> Scores:
    """Logistic regression over standardised columns, of scikit-learn's own strength or one chosen by inner cross-validation."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    if chosen:
        inner = StratifiedKFold(5, shuffle=True, random_state=1)
        model = GridSearchCV(model, {"logisticregression__C": np.logspace(-3, 3, 13)}, cv=inner)
    model.fit(x, y)
    return float(model.score(test_x, test_y)), float(roc_auc_score(test_y, model.decision_function(test_x)))


def fold(x: Features, y: Labels, test_x: Features, test_y: Labels) -> Dataset:
    """A fold as a data set. All other rows are for training, as for the regression: the preset keeps the last epoch, so the
    validation rows choose nothing, and are training rows too.
    """
    training = Split({"features": x.astype(np.float32)}, y[:, None].astype(np.float32))
    test = Split({"features": test_x.astype(np.float32)}, test_y[:, None].astype(np.float32))
    return Dataset(
        name="breast-cancer",
        kind=Rows(columns=numeric(x)),
        task=Binary(labels=("malignant", "benign")),
        train=lambda _epoch: training,
        validation=training,
        test=test,
    )


if __name__ == "__main__":
    tyro.cli(main, prog="python -m training.benchmarks.breast_cancer", description=__doc__)
