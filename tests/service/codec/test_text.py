from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelrepo.errors import CorruptVersion
from modelrepo.tensors import TensorSpec
from service.codec import text
from service.codec.text import Texts
from service.errors import InvalidRequest, PayloadTooLarge, ServiceError, Unprocessable
from tests import micro
from training.data.tokenizer import byte_tokens, encode, learn_bpe

CORPUS = ["a gorgeous film", "a dull film, far too long", "it 's gorgeous"] * 3
TOKENIZERS = {
    "learnt": learn_bpe(CORPUS, 300, lowercase=True),
    "learnt, upper case kept": learn_bpe(CORPUS, 300),
    "bytes": byte_tokens(),
}
SST2 = Path("/work/shared/data/sst2/dev.tsv")
TOKENS: TensorSpec = micro.TEXT.inputs[0]
LONGEST = 12


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


@pytest.fixture(scope="module")
def texts(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(tokenizer, encoding="utf-8")
    return Texts(path, TOKENS, LONGEST)


def rows(texts, *instances):
    return texts.rows([msgspec.Raw(json.dumps(instance).encode()) for instance in instances])


def read(texts, body, content_type, max_rows=100):
    return [row.tolist() for row in texts.read(body.encode() if isinstance(body, str) else body, content_type, max_rows)[0]]


@settings(deadline=None)
@given(written=st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_texts_become_the_tokens_that_training_made_of_them(tokenizer, texts, written):
    tokens, mask = encode(tokenizer, written, LONGEST)
    expected = [row[real].tolist() for row, real in zip(tokens, mask, strict=True)]
    assert [row.tolist() for row in rows(texts, *written)] == expected
    assert all(row.dtype == np.int64 for row in rows(texts, *written))


def test_empty_and_long_texts_are_among_them(tokenizer, texts):
    for written in ("", " ", "far too long " * 10):
        tokens, mask = encode(tokenizer, [written], LONGEST)
        assert rows(texts, written)[0].tolist() == tokens[0][mask[0]].tolist()
    assert len(rows(texts, "far too long " * 10)[0]) == LONGEST


def test_many_texts_are_encoded_some_at_a_time(texts, monkeypatch):
    written = ["a", "a gorgeous film", "", "it 's", "far too long", "b"]
    together = [row.tolist() for row in rows(texts, *written)]
    monkeypatch.setattr(text, "AT_ONCE", 15)
    assert [row.tolist() for row in rows(texts, *written)] == together


def test_a_text_is_a_string_or_an_object_and_all_else_is_left_to_the_decoder_of_numbers(texts):
    plain, wrapped, *others = rows(texts, "dull", {"text": "dull"}, [1, 2], {"tokens": [1]}, {"text": "a", "b": 1}, 5, None)
    assert plain.tolist() == wrapped.tolist()
    assert others == [None] * 5
    with pytest.raises(InvalidRequest, match="instance 1: text takes a string"):
        rows(texts, "a", {"text": [1]})


def test_plain_text_is_one_text_without_its_last_line_end(texts):
    (expected,) = rows(texts, "a film\nof two lines")
    for body in ("a film\nof two lines", "a film\nof two lines\n", "\ufeffa film\nof two lines\r\n"):
        assert read(texts, body, "text/plain; charset=UTF-8") == [expected.tolist()]


def test_csv_has_a_column_called_text(texts):
    expected = [row.tolist() for row in rows(texts, 'a "gorgeous", long film', "", "dull")]
    assert read(texts, 'text\r\n"a ""gorgeous"", long film"\r\n""\r\ndull\r\n', "text/csv") == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a gorgeous film\ndull\n", "line 1 must be `text`, the name of the only column, not 'a gorgeous film'"),
        ("text,label\na,1\n", "line 1 must be `text`.*not 'label'"),
        ("text\n", "no row below the line `text`"),
        ("text\na, b\n", "line 2 has 2 fields, line 1 has 1; quote"),
        ("text\na\n\nb\n", 'line 3 is empty; remove it, or write ""'),
        ("", "the body is empty"),
    ],
)
def test_csv_that_cannot_be_read_names_the_line(texts, body, message):
    with pytest.raises(InvalidRequest, match=message):
        read(texts, body, "text/csv")


def test_a_text_too_long_to_encode_is_refused_by_name(texts, monkeypatch):
    monkeypatch.setattr(text, "LONGEST_TEXT", 5)
    with pytest.raises(PayloadTooLarge, match="instance 1 has 6 characters; at most 5 are taken"):
        rows(texts, "12345", "123456")
    with pytest.raises(PayloadTooLarge, match="line 2 has 6 characters"):
        read(texts, "text\n123456\n", "text/csv")


def test_where_nothing_stands_for_an_empty_text_it_is_refused(tmp_path):
    foreign = json.loads(TOKENIZERS["bytes"])
    del foreign["model"]["vocab"]["<unk>"]
    foreign["model"]["unk_token"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(foreign))
    with pytest.raises(Unprocessable, match="instance 0 has no token, and this tokenizer no <unk>"):
        rows(Texts(tmp_path / "tokenizer.json", TOKENS, LONGEST), "")


def test_a_tokenizer_that_cannot_be_read_names_its_file(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"version": "99"}')
    with pytest.raises(CorruptVersion, match=r"tokenizer.json cannot be read by tokenizers \d"):
        Texts(tmp_path / "tokenizer.json", TOKENS, LONGEST)


def test_an_example_is_a_text_that_has_these_very_tokens(texts):
    (row,) = rows(texts, "a dull film")
    assert texts.instance(row) == "a dull film"
    assert read(texts, texts.body("text/csv", row), "text/csv") == [row.tolist()]
    assert texts.body("text/plain", row) == "a dull film"


def test_tokens_that_are_no_text_make_no_example(tmp_path):
    (tmp_path / "tokenizer.json").write_text(TOKENIZERS["bytes"])
    assert Texts(tmp_path / "tokenizer.json", TOKENS, LONGEST).instance(np.array([0xFF, 0xFE])) is None


@settings(deadline=None)
@given(st.binary(max_size=40), st.sampled_from(["text/plain", "text/csv"]))
def test_garbage_never_raises_anything_but_a_service_error(texts, body, content_type):
    for attempt in (lambda: texts.read(body, content_type, 5), lambda: texts.rows([msgspec.Raw(body)])):
        try:
            attempt()
        except ServiceError as error:
            assert error.status < 500  # noqa: PT017


@pytest.mark.skipif(not SST2.exists(), reason="the SST-2 sentences are not on this machine")
def test_real_sentences_become_the_tokens_that_training_made_of_them(tokenizer, texts):
    sentences = pl.read_csv(SST2, separator="\t", has_header=False, quote_char=None).to_series(0).cast(pl.String).to_list()
    tokens, mask = encode(tokenizer, sentences, LONGEST)
    expected = [row[real].tolist() for row, real in zip(tokens, mask, strict=True)]
    assert [row.tolist() for row in rows(texts, *sentences)] == expected
