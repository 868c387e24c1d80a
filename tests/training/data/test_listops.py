from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from training.data.listops import TRAIN, VOCABULARY, expressions, listops
from training.data.tokenizer import encode


@pytest.fixture(scope="module")
def dataset():
    return listops()


def evaluate(text):
    """A reader of its own: a stack of open lists, written from the definition of the operations."""
    stack = [[]]
    for word in text.split():
        if word.startswith("["):
            stack.append([word])
        elif word == "]":
            name, *digits = stack.pop()
            digits = sorted(digits)
            middle = (digits[(len(digits) - 1) // 2] + digits[len(digits) // 2]) // 2
            stack[-1].append({"[MIN": digits[0], "[MAX": digits[-1], "[SM": sum(digits) % 10, "[MED": middle}[name])
        else:
            stack[-1].append(int(word))
    (answer,) = stack.pop()
    assert not stack, "every list is closed"
    return answer


def written(split):
    words = {number: token for token, number in VOCABULARY.items()}
    return [
        [words[token] for token in row[mask].tolist()]
        for row, mask in zip(split.inputs["tokens"], split.inputs["mask"], strict=True)
    ]


def test_the_answer_is_the_value_of_the_expression(dataset):
    assert evaluate("[MAX 2 9 [MIN 4 7 ] 0 ]") == 9
    assert evaluate("[MED 1 4 [SM 6 7 ] ]") == 3
    split = expressions(TRAIN, 1, 500)
    for words, answer in zip(written(split), split.targets, strict=True):
        assert evaluate(" ".join(words)) == answer


def test_expressions_are_as_deep_and_as_long_as_announced(dataset):
    depths = set()
    for words in written(dataset.test):
        nesting = np.cumsum([word.startswith("[") - (word == "]") for word in words])
        depths.add(int(nesting.max()))
        assert (nesting[:-1] > 0).all(), "one expression, not several"
    assert depths == {2, 3}
    lengths = dataset.test.inputs["mask"].sum(axis=1)
    assert (lengths.min(), lengths.max()) == (8, dataset.kind.length.max)


def test_no_test_expression_is_ever_trained_on(dataset):
    def texts(split):
        return {tuple(words) for words in written(split)}

    judged, chosen = texts(dataset.test), texts(dataset.validation)
    assert len(judged) == len(dataset.test), "all are different"
    assert not judged & chosen
    for epoch in (1, 2, 3):
        assert not texts(expressions(TRAIN, epoch, 3000)) & (judged | chosen)


def test_no_answer_is_much_more_frequent_than_another(dataset):
    shares = np.bincount(dataset.test.targets, minlength=10) / len(dataset.test)
    assert shares.min() > 0.08
    assert shares.max() < 0.125


def test_the_outermost_operation_alone_tells_one_answer_in_four(dataset):
    train, test = expressions(TRAIN, 1, 5000), dataset.test
    operation, asked = train.inputs["tokens"][:, 0], test.inputs["tokens"][:, 0]
    guess = {number: np.bincount(train.targets[operation == number]).argmax() for number in set(operation)}
    assert np.mean([guess[number] == answer for number, answer in zip(asked, test.targets, strict=True)]) == pytest.approx(
        0.25, abs=0.03
    )


def test_each_epoch_has_fresh_expressions_and_each_run_the_same():
    one, again, two = (expressions(TRAIN, epoch, 300) for epoch in (1, 1, 2))
    np.testing.assert_array_equal(one.inputs["tokens"], again.inputs["tokens"])
    assert one.inputs["tokens"].shape != two.inputs["tokens"].shape or not np.array_equal(
        one.inputs["tokens"], two.inputs["tokens"]
    )


def test_the_tokenizer_reads_expressions_as_they_are_written(dataset):
    rows = dataset.test.rows(slice(0, 50))
    tokens, mask = encode(dataset.kind.tokenizer, [" ".join(words) for words in written(rows)], 40)
    np.testing.assert_array_equal(tokens, rows.inputs["tokens"])
    np.testing.assert_array_equal(mask, rows.inputs["mask"])
    tokenizer = Tokenizer.from_str(dataset.kind.tokenizer)
    assert tokenizer.get_vocab_size() == dataset.kind.vocabulary
    assert tokenizer.encode("[MEAN 3 ]").ids[0] == tokenizer.token_to_id("<unk>")
