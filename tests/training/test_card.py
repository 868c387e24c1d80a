from __future__ import annotations

import copy

import pytest

from training import card

FACTS = {
    "format_version": 2,
    "family": "mlp",
    "model": {"hidden": [64, 64], "activation": "relu", "norm": "batch"},
    "parameters": 4611,
    "kind": {
        "input": "features",
        "columns": [
            {"type": "numeric", "name": "age", "mean": 41.5, "scale": 9.25, "missing": False},
            {"type": "categorical", "name": "port", "categories": ["Kiel", "Bremen"], "missing": True},
        ],
    },
    "task": {"type": "multiclass", "labels": ["red", "green", "blue"], "temperature": 1.25, "output": "logits"},
    "config": {"data": "ships.csv", "out": "runs/ships-mlp", "epochs": 30, "loss": {"huber": None}, "control": {"resume": True}},
    "seed": 7,
    "epoch": 12,
    "epochs": 17,
    "ended": "patience",
    "seconds": 93.26,
    "validation": {"name": "accuracy", "value": 0.95, "better": "higher", "floor": None},
    "test": {"name": "accuracy", "value": 0.9, "better": "higher", "floor": 0.85},
    "metrics": {"accuracy": 0.9, "macro F1": 0.8765, "log loss": 0.25},
    "data": "ships",
    "fingerprint": "f" * 64,
    "rows": {"train": 3000, "validation": 600, "test": 100},
    "handling": {
        "rows": {"train": 3000},
        "columns left out": {"name": "every row has another value"},
        "split": "stratified",
    },
    "holdout_sha256": "a" * 64,
    "calibration_sha256": "b" * 64,
    "created": "2026-10-01T12:00:00+00:00",
    "git_commit": "c" * 40,
    "git_dirty": False,
    "environment": {"cpu": "AMD EPYC", "cores": 2, "gpus": [], "memory_gib": 23.5},
    "versions": {"python": "3.11.2", "torch": "2.13.0"},
}
COMMAND = "python -m training mlp --data ships.csv --target colour"


@pytest.fixture
def facts():
    return copy.deepcopy(FACTS)


@pytest.fixture
def written(tmp_path):
    def write(facts) -> str:
        card.write(tmp_path / "MODEL_CARD.md", facts, COMMAND)
        return (tmp_path / "MODEL_CARD.md").read_text()

    return write


@pytest.mark.parametrize(
    "line",
    [
        "# ships-mlp",
        'tags: ["quartet", "mlp", "multiclass"]',
        "- Parameters: 4,611",
        "- Answer: one of red, green, blue",
        f"- Code: commit {'c' * 40}",
        "| hidden | 64, 64 |",
        f"- Fingerprint: sha256 {'f' * 64} over all splits",
        "    - name: every row has another value",
        "| train | 3,000 |",
        "| age | numeric | mean 41.5, standard deviation 9.25 | no |",
        "| port | categorical | Kiel, Bremen | yes |",
        "- Kept: the weights of epoch 12",
        "- Ended: no better epoch for as long as --patience allows",
        "- Time: 93.3 s",
        "| loss.huber | null |",
        "| macro F1 | 0.8765 |",
        "- The floor, test accuracy of 0.85, is reached.",
        "- So many rows place the accuracy between 0.826 and 0.945 with 95 % confidence (Wilson 1927).",
        "- Missing values of age never occurred in training; how it answers them is untested.",
        "- A category that did not occur in training is treated as a missing value.",
        "| cpu | AMD EPYC |",
        "| torch | 2.13.0 |",
        COMMAND,
    ],
)
def test_the_card_states_what_was_recorded(line, facts, written):
    assert line in written(facts).splitlines()


def test_the_sections_are_those_of_a_model_card_in_order(facts, written):
    titles = [line for line in written(facts).splitlines() if line.startswith("## ")]
    assert [title.removeprefix("## ") for title in titles] == [
        "Model details",
        "Data",
        "Training procedure",
        "Evaluation",
        "Limits",
        "Environment",
        "How to reproduce",
    ]


def test_how_a_run_was_started_and_what_is_empty_stay_out(facts, written):
    text = written(facts)
    assert "control" not in text
    assert "gpus" not in text


def test_a_fact_that_is_not_there_leaves_its_line_out(facts, written):
    for name in (
        "parameters",
        "epochs",
        "ended",
        "seconds",
        "metrics",
        "test",
        "git_commit",
        "environment",
        "versions",
        "handling",
    ):
        facts.pop(name)
    text = written(facts)
    assert "None" not in text
    assert "## Environment" not in text
    assert "git checkout" not in text
    assert "test split" not in text
    assert "- Chosen by validation accuracy of 0.95 on 600 rows." in text


@pytest.mark.parametrize(
    ("better", "value", "verdict"),
    [
        ("higher", 0.84, "is missed, so export refuses it"),
        ("higher", 0.85, "is reached"),
        ("lower", 0.86, "is missed, so export refuses it"),
        ("lower", 0.85, "is reached"),
    ],
)
def test_the_floor_is_judged_the_way_export_judges_it(better, value, verdict, facts, written):
    facts["test"] |= {"better": better, "value": value}
    facts["metrics"]["accuracy"] = value
    assert verdict in written(facts)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        pytest.param(
            {"input": "image", "mean": [0.1, 0.2, 0.3], "scale": [1, 1, 1], "height": 28, "width": 30},
            "Pictures have 28 x 30 pixels and 3 channels; no other size is taken.",
            id="images",
        ),
        pytest.param(
            {"input": "sequence", "mean": [0.0], "scale": [1.0], "length": {"axis": "length", "min": 7, "opt": 20, "max": 29}},
            "Sequences have 7 to 29 steps; no other length is taken.",
            id="series",
        ),
        pytest.param(
            {
                "input": "tokens",
                "vocabulary": 300,
                "tokenizer": "{…}",
                "length": {"axis": "length", "min": 1, "opt": 2, "max": 256},
            },
            "Sequences have 1 to 256 tokens; no other length is taken.",
            id="tokens",
        ),
    ],
)
def test_limits_follow_from_what_the_model_reads(kind, sentence, facts, written):
    facts["kind"] = kind
    assert f"- {sentence}" in written(facts).splitlines()


def test_a_regression_has_neither_labels_nor_temperature(facts, written):
    facts["task"] = {"type": "regression", "targets": ["price", "cost"], "mean": None, "scale": None, "output": "values"}
    facts["test"] = facts["validation"] = {"name": "MSE", "value": 0.5, "better": "lower", "floor": None}
    facts["metrics"] = {"MSE": 0.5}
    text = written(facts)
    assert "- Answer: a number for price, cost" in text
    assert "temperature" not in text
    assert "label" not in text


def test_code_that_was_changed_is_told_as_a_limit(facts, written):
    facts["git_dirty"] = True
    text = written(facts)
    assert "with changes that were not committed" in text
    assert "- It was trained with code that differs from its commit, which alone does not reproduce it." in text


def test_names_from_the_data_cannot_break_the_page(facts, written):
    facts["task"]["labels"] = ["<script>alert(1)</script>", "![x](http://evil/pixel.png)", "two\nlines # not a title"]
    facts["kind"]["columns"][0]["name"] = "a|b"
    text = written(facts)
    assert "<script" not in text
    assert "![x](" not in text
    assert "two lines # not a title" in text
    assert "| a&#124;b | numeric |" in text


def test_long_lists_are_cut(facts, written):
    facts["task"]["labels"] = [f"label{n}" for n in range(1000)]
    facts["kind"]["columns"] = facts["kind"]["columns"] * 100
    text = written(facts)
    assert "label39, and 960 more" in text
    assert "and 160 columns more." in text


def test_only_pictures_that_are_there_are_shown(facts, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "confusion.png").touch()
    card.write(tmp_path / "MODEL_CARD.md", facts, COMMAND)
    text = (tmp_path / "MODEL_CARD.md").read_text()
    assert "![confusion](pictures/confusion.png)" in text
    assert text.count("![") == 1
