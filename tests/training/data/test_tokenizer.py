from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from training.data.tokenizer import UNKNOWN, byte_tokens, encode, learn_bpe

TEXTS = ["the film was good", "the film was bad", "The Film was not so good", "good <unk> film"] * 3
BYTES = byte_tokens()
LEARNT = learn_bpe(TEXTS, 300)


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1))
def test_bytes_are_the_bytes_of_any_text_and_give_it_back(text):
    tokens, mask = encode(BYTES, [text], 10_000)
    ids = tokens[mask].tolist()
    assert bytes(ids) == text.encode()
    assert Tokenizer.from_str(BYTES).decode(ids) == text


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1))
def test_a_learnt_tokenizer_knows_every_text(text):
    tokens, mask = encode(LEARNT, [text], 10_000)
    tokenizer = Tokenizer.from_str(LEARNT)
    assert tokens.max() < tokenizer.get_vocab_size()
    assert 0 not in tokens[mask], "the unknown token is left to texts without any"
    again, _ = encode(LEARNT, [tokenizer.decode(tokens[mask].tolist())[1:]], 10_000)
    if not text.startswith(" "):  # the space before the first word is the tokenizer's own
        np.testing.assert_array_equal(again, tokens)


def test_frequent_words_become_one_token():
    tokenizer = Tokenizer.from_str(LEARNT)
    assert tokenizer.encode("film was good").tokens == ["Ġfilm", "Ġwas", "Ġgood"]
    assert tokenizer.token_to_id(UNKNOWN) == 0
    assert 257 < tokenizer.get_vocab_size() <= 300


def test_the_same_texts_give_the_same_tokenizer():
    assert learn_bpe(TEXTS, 300) == LEARNT
    assert learn_bpe(TEXTS[:1], 300) != LEARNT


@pytest.mark.parametrize("make", [byte_tokens, lambda **options: learn_bpe(TEXTS, 300, **options)], ids=["bytes", "bpe"])
def test_case_is_kept_unless_told_otherwise(make):
    for lowercase in (False, True):
        upper, lower = (encode(make(lowercase=lowercase), [text], 50)[0].tolist() for text in ("GOOD", "good"))
        assert (upper == lower) == lowercase


@pytest.mark.parametrize("tokenizer", [BYTES, LEARNT], ids=["bytes", "bpe"])
def test_texts_are_cut_padded_and_never_empty(tokenizer):
    unknown = Tokenizer.from_str(tokenizer).token_to_id(UNKNOWN)
    tokens, mask = encode(tokenizer, ["", "a", "a b c d e f g"], 3)
    assert tokens.dtype == np.int64
    assert mask.dtype == np.bool_
    assert mask[[0, 2]].tolist() == [[True, False, False], [True, True, True]]
    assert tokens[0].tolist() == [unknown, 0, 0]
    np.testing.assert_array_equal(tokens[2], encode(tokenizer, ["a b c d e f g"], 99)[0][0, :3])


def test_the_name_of_the_unknown_token_in_a_text_is_text():
    for tokenizer in (BYTES, LEARNT):
        tokens, _ = encode(tokenizer, [f"a {UNKNOWN} b"], 99)
        assert Tokenizer.from_str(tokenizer).token_to_id(UNKNOWN) not in tokens


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(ValueError, match="a vocabulary of 256 has no room .* give at least 257"):
        learn_bpe(TEXTS, 256)
    assert Tokenizer.from_str(learn_bpe(TEXTS, 257)).get_vocab_size() == 257
