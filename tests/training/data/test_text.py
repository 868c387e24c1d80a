from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tokenizers import Tokenizer

from training.data.dataset import DataError
from training.data.source import Source
from training.data.text import load_text
from training.data.tokenizer import encode

SST2 = Path(os.environ.get("QUARTET_SHARED", "/work/shared")) / "data/sst2"
SOURCE = Source(text="review", target=("stars",), vocabulary=300)


def reviews(count=40):
    """Every second one good, each with a word of its own."""
    return [
        {"review": f'film {i} was {"good" if i % 2 else "bad"}, "word{i:02}"', "stars": "up" if i % 2 else "down"}
        for i in range(count)
    ]


def write(path, rows, header=True):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = ["\t".join(row.values()) for row in rows]
        path.write_text("\n".join([*(["\t".join(rows[0])] if header else []), *lines]) + "\n", encoding="utf-8")
    return path


def texts(dataset, split):
    """What the tokens of a split say."""
    tokenizer = Tokenizer.from_str(dataset.kind.tokenizer)
    return [tokenizer.decode(row[mask].tolist()) for row, mask in zip(split.inputs["tokens"], split.inputs["mask"], strict=True)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_texts_quotes_and_all(tmp_path, suffix):
    dataset = load_text(
        write(tmp_path / f"reviews{suffix}", reviews()), Source(text="review", target=("stars",), tokenizer="bytes")
    )
    splits = [dataset.train(1), dataset.validation, dataset.test]
    assert [len(split) for split in splits] == [28, 4, 8]
    assert sorted(text for split in splits for text in texts(dataset, split)) == sorted(row["review"] for row in reviews())
    for split in splits:
        assert [("good" in text) == bool(target) for text, target in zip(texts(dataset, split), split.targets, strict=True)]
        assert split.targets.mean() == 0.5, "both labels alike in every split"
    assert dataset.task.labels == ("down", "up")


def test_a_file_without_header_names_its_columns_by_number(tmp_path):
    rows = [{"1": row["review"], "2": row["stars"]} for row in reviews()]
    dataset = load_text(write(tmp_path / "r.tsv", rows, header=False), Source(text="1", target=("2",), header=False))
    assert sum(len(split) for split in (dataset.train(1), dataset.validation, dataset.test)) == 40


def test_the_tokenizer_is_learnt_from_training_texts_only(tmp_path):
    rows = reviews(30) + [{"review": "zyxwv zyxwv zyxwv", "stars": "up"}] * 2
    held_out = {
        "test_data": write(tmp_path / "test.csv", rows[30:]),
        "validation_data": write(tmp_path / "validation.csv", rows[30:]),
    }
    source = {"text": "review", "target": ("stars",), "vocabulary": 400}
    apart = load_text(write(tmp_path / "apart.csv", rows[:30]), Source(**source, **held_out))
    together = load_text(write(tmp_path / "all.csv", rows * 2), Source(**source))
    assert "Ġzyxwv" not in Tokenizer.from_str(apart.kind.tokenizer).get_vocab()
    assert "Ġzyxwv" in Tokenizer.from_str(together.kind.tokenizer).get_vocab()
    assert texts(apart, apart.test) == [" zyxwv zyxwv zyxwv"] * 2
    assert [len(split) for split in (apart.train(1), apart.validation, apart.test)] == [30, 2, 2]


def test_the_kind_says_all_that_serving_needs(tmp_path):
    dataset = load_text(write(tmp_path / "r.csv", reviews()), SOURCE)
    kind, tokenizer = dataset.kind, Tokenizer.from_str(dataset.kind.tokenizer)
    assert kind.vocabulary == tokenizer.get_vocab_size() <= 300
    longest = max(split.inputs["mask"].sum(axis=1).max() for split in (dataset.train(1), dataset.validation, dataset.test))
    assert (kind.length.min, kind.length.max) == (1, longest)
    tokens, mask = encode(kind.tokenizer, [text[1:] for text in texts(dataset, dataset.test)], kind.length.max)
    np.testing.assert_array_equal(tokens, dataset.test.inputs["tokens"])
    np.testing.assert_array_equal(mask, dataset.test.inputs["mask"])


def test_long_texts_are_cut_and_empty_ones_kept_and_both_are_counted(tmp_path):
    test = [{"review": "x" * 90, "stars": "up"}, {"review": "", "stars": "down"}, {"review": "y" * 20, "stars": "down"}]
    source = Source(text="review", target=("stars",), tokenizer="bytes", max_length=50, test_data=write(tmp_path / "t.csv", test))
    dataset = load_text(write(tmp_path / "r.csv", reviews()), source)
    assert dataset.handling["texts cut after 50 tokens"] == {"train": 0, "validation": 0, "test": 1}
    assert dataset.handling["empty texts, read as one unknown token"] == {"train": 0, "validation": 0, "test": 1}
    assert dataset.test.inputs["mask"].sum(axis=1).tolist() == [50, 1, 20]
    assert dataset.test.inputs["tokens"][1, 0] == 256
    assert dataset.kind.length.max == 50


def test_a_number_may_be_predicted_from_text(tmp_path):
    rows = [{**row, "stars": i / 7} for i, row in enumerate(reviews())]
    dataset = load_text(write(tmp_path / "r.csv", rows), SOURCE)
    assert dataset.task.type == "regression"
    np.testing.assert_allclose(dataset.task.mean, dataset.train(1).targets.mean(axis=0), rtol=1e-6)


def test_texts_of_a_group_stay_together(tmp_path):
    rows = [{**row, "film": str(i // 4)} for i, row in enumerate(reviews())]
    dataset = load_text(write(tmp_path / "r.csv", rows), Source(text="review", target=("stars",), group="film", tokenizer="bytes"))
    films = [
        {int(text.split()[1]) // 4 for text in texts(dataset, split)}
        for split in (dataset.train(1), dataset.validation, dataset.test)
    ]
    assert not films[0] & films[1]
    assert not films[0] & films[2]
    assert not films[1] & films[2]


@pytest.mark.parametrize(
    ("change", "source", "message"),
    [
        pytest.param(
            {}, Source(text="reviews", target=("stars",)), r"no column 'reviews' \(did you mean 'review'\?\)", id="misspelt"
        ),
        pytest.param({}, Source(text="review"), "say with --target", id="no-target"),
        pytest.param({}, Source(text="review", target=("review",)), "both --text and --target", id="text-as-target"),
        pytest.param({"stars": ""}, SOURCE, "line 4, column 'stars': the target is missing", id="no-label"),
        pytest.param({}, Source(text="review", target=("stars",), group="film"), "no column 'film'", id="no-such-group"),
        pytest.param(
            {"word": ""}, Source(text="review", target=("stars",), group="word"), "line 4, column 'word': is empty", id="no-group"
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, change, source, message):
    rows = [{**row, "word": str(i)} for i, row in enumerate(reviews())]
    rows[2].update(change)
    with pytest.raises(DataError, match=message):
        load_text(write(tmp_path / "r.csv", rows), source)


@pytest.mark.skipif(not SST2.is_dir(), reason=f"no {SST2}")
def test_sst2_comes_with_its_official_splits():
    source = Source(text="1", target=("2",), header=False, test_data=SST2 / "test.tsv", validation_data=SST2 / "dev.tsv")
    dataset = load_text(SST2 / "train.tsv", source)
    assert [len(split) for split in (dataset.train(1), dataset.validation, dataset.test)] == [6920, 872, 1821]
    assert dataset.kind.vocabulary == 8192
    assert dataset.kind.length.max < 100
    assert 0 not in dataset.test.inputs["tokens"][dataset.test.inputs["mask"]], "no text is beyond the tokenizer"
    assert texts(dataset, dataset.test.rows(slice(0, 1))) == [" no movement , no yuks , not much of anything"]
