from __future__ import annotations

import contextlib

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.codec import form
from service.errors import InvalidRequest, PayloadTooLarge

TYPE = "multipart/form-data; boundary=b"


def sent(**parts):
    """A form as a client writes it: (body, Content-Type)."""
    request = httpx2.Request("POST", "http://x", **parts)
    return request.read(), request.headers["content-type"]


def test_files_come_in_their_order_with_their_names_and_fields_beside_them():
    files = [("image", ("å b.png", b"\r\n--\0binary")), ("x", ("b.jpg", b""))]
    read = form.read(*sent(files=files, data={"top_k": "3"}), max_files=2)
    assert read.fields == [("top_k", "3")]
    assert [content for _, content in read.files] == [b"\r\n--\0binary", b""]
    assert read.files[1][0] == "b.jpg"


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"", TYPE, "ends before its last boundary"),
        (b"hello", TYPE, "the body is no multipart/form-data"),
        (b"--b\r\nContent-Disposition: form-data; filename=a\r\n\r\nxyz", TYPE, "ends before its last boundary"),
        (b"--c--\r\n", TYPE, "the body is no multipart/form-data"),
        (b"--b--\r\n", "multipart/form-data", "it must name the boundary"),
        (b"--b--\r\n", "multipart/form-data; boundary=" + "b" * 500, "no multipart/form-data"),
        (b"--b\r\nbroken header\r\n\r\nx\r\n--b--\r\n", TYPE, "the body is no multipart/form-data"),
    ],
)
def test_what_is_no_form_says_so(body, content_type, message):
    with pytest.raises(InvalidRequest, match=message):
        form.read(body, content_type, 10)


def test_parts_are_counted():
    with pytest.raises(PayloadTooLarge, match="more than 2 files"):
        form.read(*sent(files=[("x", ("a", b"1"))] * 3), max_files=2)
    with pytest.raises(InvalidRequest, match="more than 10 fields"):
        form.read(*sent(files={"x": ("a", b"1")}, data={str(n): "1" for n in range(11)}), max_files=2)


@settings(deadline=None)
@given(
    st.lists(
        st.binary(max_size=8)
        | st.sampled_from([b"--b", b"\r\n", b"--", b"Content-Disposition: form-data; ", b'filename="a"', b": "])
    )
)
def test_garbage_never_raises_anything_but_an_invalid_request(pieces):
    with contextlib.suppress(InvalidRequest, PayloadTooLarge):
        form.read(b"".join(pieces), TYPE, 3)
