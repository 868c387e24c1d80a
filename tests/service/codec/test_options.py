from __future__ import annotations

import pytest

from modelrepo.tasks import Multiclass, Regression
from service.codec import options
from service.codec.options import Options
from service.errors import InvalidRequest


def test_options_come_in_the_query_and_none_is_fine():
    assert options.from_query("") == Options(None, False)
    assert options.from_query("explain=true&top_k=3") == Options(3, True)
    assert options.from_query("explain=false") == Options(None, False)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("topk=3", "unknown parameter 'topk'; known are top_k and explain"),
        ("top_k=three", "top_k is 'three'; it takes 1 or more"),
        ("top_k=-1", "top_k is '-1'"),
        ("top_k=", "top_k is ''"),
        ("top_k=٣", "top_k is"),
        ("explain", "explain is ''; it takes true or false"),
        ("explain=yes", "explain is 'yes'"),
        ("top_k=1&top_k=2", "top_k is given twice"),
        ("&".join(["a=1"] * 11), "more than 10 parameters"),
    ],
)
def test_a_query_that_is_not_understood_says_so(query, message):
    with pytest.raises(InvalidRequest, match=message):
        options.from_query(query)


def test_body_and_query_may_both_ask_but_not_for_different_things():
    assert Options(2, False).joined(Options(None, True)) == Options(2, True)
    assert Options(None, True).joined(Options(2, False)) == Options(2, True)
    with pytest.raises(InvalidRequest, match="top_k is 2 in the body and 3 in the query: give it once"):
        Options(2).joined(Options(3))


def test_labels_are_not_limited_to_none_nor_where_there_are_none():
    with pytest.raises(InvalidRequest, match="top_k is for labels; this model answers values"):
        options.check_top_k(1, Regression(targets=("mean",)))
    with pytest.raises(InvalidRequest, match="top_k is 0; it takes 1 or more"):
        options.check_top_k(0, Multiclass(labels=("a", "b")))
