from __future__ import annotations

import gzip
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codec import encoding
from service.errors import InvalidRequest, PayloadTooLarge, UnsupportedEncoding

LIMIT = 1000


def bare(content: bytes) -> bytes:
    """A deflate stream without zlib's header and checksum."""
    return zlib.compress(content, wbits=-zlib.MAX_WBITS)


FORMS = [
    pytest.param("gzip", gzip.compress, id="gzip"),
    pytest.param("deflate", zlib.compress, id="deflate"),
    pytest.param("deflate", bare, id="deflate without zlib's wrapping"),
]


@pytest.mark.parametrize(("coding", "compress"), FORMS)
def test_a_body_of_any_form_is_decoded(coding, compress):
    @given(st.binary(max_size=LIMIT))
    def check(content):
        assert encoding.decode(compress(content), coding, LIMIT) == content

    check()


@pytest.mark.parametrize("coding", encoding.CODINGS)
@given(content=st.binary(max_size=LIMIT))
def test_what_is_encoded_is_what_other_programs_decode(coding, content):
    decompress = gzip.decompress if coding == "gzip" else zlib.decompress
    assert decompress(encoding.encode(content, coding)) == content


@pytest.mark.parametrize(("coding", "compress"), FORMS)
def test_a_bomb_is_refused_before_it_is_inflated(coding, compress):
    bomb = compress(bytes(20_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge, match="inflates to more than 1000 bytes"):
            encoding.decode(bomb, coding, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert len(encoding.decode(compress(bytes(LIMIT)), coding, LIMIT)) == LIMIT
    with pytest.raises(PayloadTooLarge):
        encoding.decode(compress(bytes(LIMIT + 1)), coding, LIMIT)


@pytest.mark.parametrize(("coding", "compress"), FORMS)
def test_a_stream_torn_anywhere_is_refused(coding, compress):
    whole = compress(b"a body " * 20)
    for end in range(len(whole)):
        with pytest.raises(InvalidRequest, match="ends too early|is not"):
            encoding.decode(whole[:end], coding, LIMIT)


@pytest.mark.parametrize(("coding", "compress"), FORMS)
def test_bytes_after_the_stream_are_refused(coding, compress):
    with pytest.raises(InvalidRequest, match=f"1 bytes follow the end of the body's {coding} stream"):
        encoding.decode(compress(b"x") + b"!", coding, LIMIT)


@given(st.binary(max_size=100), st.sampled_from(encoding.CODINGS))
def test_garbage_never_raises_anything_but_a_refusal(body, coding):
    with suppress(InvalidRequest, PayloadTooLarge):
        encoding.decode(body, coding, LIMIT)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("deflate", "deflate"),
        ("identity", None),
        ("", None),
        ("identity, gzip", "gzip"),
    ],
)
def test_the_header_of_a_request_names_its_coding(header, coding):
    assert encoding.of_request(header) == coding


@pytest.mark.parametrize(
    ("header", "message"),
    [("br", "'br' is not decoded here: send gzip"), ("gzip, gzip", "encoded 2 times"), ("deflate,br", "encoded 2 times")],
)
def test_a_coding_not_decoded_here_is_refused_with_those_that_are(header, message):
    with pytest.raises(UnsupportedEncoding, match=message) as refused:
        encoding.of_request(header)
    assert refused.value.status == 415
    assert refused.value.headers == {"Accept-Encoding": "gzip, deflate"}


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("deflate, gzip", "gzip"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("gzip; q=0.5 , deflate;q=0.4", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP;Q=1", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0.000, deflate;q=0", None),
        ("*", "gzip"),
        ("gzip;q=0, *", "deflate"),
        ("*;q=0", None),
        ("*;q=0, deflate", "deflate"),
        ("identity", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity;q=0, gzip;q=0.1", "gzip"),
        ("identity;q=0", None),
        ("br, zstd", None),
        ("gzip;q=nan", None),
        ("gzip;q=-1", None),
        ("gzip;level=9", None),
        ("gzip;q=٣", None),
        (",,;;,", None),
    ],
)
def test_an_answer_comes_in_the_coding_its_client_likes_best(header, coding):
    assert encoding.of_answer(header) == coding


@given(st.text(st.characters(max_codepoint=255)))
def test_no_header_is_too_strange(header):
    assert encoding.of_answer(header) in (None, *encoding.CODINGS)
