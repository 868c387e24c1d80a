from __future__ import annotations

import base64
import contextlib
import io
import json
import struct
import zlib
from pathlib import Path

import httpx2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.codec import pictures
from service.codec.pictures import Pictures
from service.errors import InvalidRequest, PayloadTooLarge, ServiceError, Unprocessable, UnsupportedMediaType
from training.data.idx import read_idx
from training.data.images import load_images
from training.data.source import Source

GREY = Pictures(1, 2, 3, resize=False)  # 2 high, 3 wide
COLOUR = Pictures(3, 8, 12, resize=True)
MNIST = Path("/work/shared/data/mnist-10k/t10k-images-idx3-ubyte.gz")


def drawn(mode="L", size=(3, 2), seed=0) -> Image.Image:
    """Noise in any of Pillow's modes."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise).convert(mode)


def file(image, form="PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def rows(kind, *instances):
    return kind.rows([msgspec.Raw(json.dumps(instance).encode()) for instance in instances])


def read(kind, body, content_type="image/png"):
    (row,), _ = kind.read(body, content_type, 10)
    return row


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def large(width: int, height: int) -> bytes:
    """A PNG that says it is as large as that, in a few bytes."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


FOLDERS = {
    "grey, all of one size": (
        None,
        {
            "plain.png": file(drawn()),
            "black and white.png": file(drawn("1")),
            "transparent.png": file(drawn("LA")),
            "lossy.jpg": file(drawn(), "JPEG"),
            "turned.jpg": file(drawn(size=(2, 3)), "JPEG", exif=turned(6)),
            "turned.png": file(drawn(size=(2, 3)), exif=turned(8)),
            "mirrored.png": file(drawn(), exif=turned(2)),
        },
    ),
    "colour, resized": (
        (8, 12),
        {
            "plain.png": file(drawn("RGB", (20, 31))),
            "small.png": file(drawn("RGB", (2, 2))),
            "grey among them.png": file(drawn("L", (12, 8))),
            "palette.png": file(drawn("RGB", (9, 9)).quantize(16)),
            "see-through palette.png": file(drawn("RGB", (9, 9)).quantize(16), transparency=3),
            "transparent.png": file(drawn("RGBA", (30, 10))),
            "print.jpg": file(drawn("CMYK", (20, 20)), "JPEG"),
            "progressive.jpg": file(drawn("RGB", (33, 17)), "JPEG", progressive=True),
            "turned.jpg": file(drawn("RGB", (17, 33)), "JPEG", exif=turned(5)),
            "moving.png": file(drawn("RGB", (9, 9)), save_all=True, append_images=[drawn("RGB", (9, 9), 1)]),
        },
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_picture_sent_to_the_service_is_the_tensor_that_training_read_from_its_file(case, tmp_path):
    size, files = FOLDERS[case]
    for part in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for name, data in files.items():
                (folder / name).write_bytes(data)
    test = load_images(tmp_path, Source(image_size=size)).test.inputs["image"]
    kind = Pictures(*test.shape[1:], resize=size is not None)
    names = sorted(files)
    assert len(test) == 2 * len(names)
    for name, expected in zip(names, test, strict=False):
        found = read(kind, files[name])
        np.testing.assert_array_equal(found, expected, err_msg=name)
        assert found.dtype == expected.dtype


@pytest.mark.skipif(not MNIST.exists(), reason="the MNIST test images are not on this machine")
def test_a_real_digit_saved_as_png_is_the_tensor_that_training_had():
    kind = Pictures(1, 28, 28, resize=False)
    for digit in read_idx(MNIST)[:50]:
        np.testing.assert_array_equal(read(kind, file(Image.fromarray(digit)))[0], digit)


def test_an_instance_is_a_file_in_base64_as_a_string_an_object_or_a_data_url():
    data = file(drawn())
    expected = read(GREY, data)
    text = b64(data)
    for row in rows(GREY, text, {"b64": text}, f"data:image/png;base64,{text}"):
        np.testing.assert_array_equal(row, expected)
    assert expected.shape == (1, 2, 3)
    assert rows(GREY, [[[1, 2, 3]]], {"image": []}, None) == [None] * 3


def test_a_form_may_hold_several_files_and_the_options():
    files = [("image", ("a.png", file(drawn()))), ("image", ("b.png", file(drawn(seed=1))))]
    request = httpx2.Request("POST", "http://x", files=files, data={"top_k": "2"})
    found, asked = GREY.read(request.read(), request.headers["content-type"], 10)
    np.testing.assert_array_equal(found[1], read(GREY, files[1][1][1]))
    assert (len(found), asked.top_k) == (2, 2)


@pytest.mark.parametrize(
    ("instance", "error", "message"),
    [
        ("not base64!", InvalidRequest, "instance 0 is a string that is not base64"),
        ("ü", InvalidRequest, "not base64"),
        ("data:image/png,%89PNG", InvalidRequest, "a data: URL that is not in base64"),
        ({"b64": 5}, InvalidRequest, "b64 takes a string"),
        ("", UnsupportedMediaType, "instance 0 is empty; send a PNG or JPEG file"),
        (b64(b"hello"), UnsupportedMediaType, "begins with the bytes 68 65 6c 6c 6f; send a PNG or JPEG file"),
        (b64(file(drawn(), "GIF")), UnsupportedMediaType, "instance 0 is GIF; send a PNG or JPEG file"),
        (b64(file(drawn("RGB"), "WEBP")), UnsupportedMediaType, "is WebP"),
        (b64(file(drawn(), "GIF", save_all=True, append_images=[drawn()])), UnsupportedMediaType, "is GIF"),
        (b64(file(drawn())[:40]), Unprocessable, r"instance 0 is a broken picture \("),
        (b64(file(drawn("L", (40, 40)), "JPEG")[:200]), Unprocessable, "instance 0 is"),
        (b64(file(drawn("L", (30, 20)))), Unprocessable, r"is a picture of 20x30 \(height x width\); the model takes 2x3"),
        (b64(file(drawn(size=(2, 3)))), Unprocessable, "is a picture of 3x2 .*; the model takes 2x3"),
        (b64(file(Image.fromarray(np.zeros((2, 3), np.uint16)))), Unprocessable, "pixels of more than 8 bits"),
        (b64(large(60_000, 60_000)), PayloadTooLarge, "is a picture of 60000x60000 pixels; at most 64 million"),
        (b64(large(3, 2)), Unprocessable, "broken picture"),
    ],
)
def test_what_cannot_be_read_says_which_and_why(instance, error, message):
    with pytest.raises(error, match=message):
        rows(GREY, instance)


def test_a_model_that_resizes_is_not_bombed_either(monkeypatch):
    with pytest.raises(PayloadTooLarge, match="picture of 8001x8001 pixels; at most 64 million"):
        rows(COLOUR, b64(large(8001, 8001)))
    monkeypatch.setattr(pictures, "MOST_PIXELS_IN_ALL", 250)
    with pytest.raises(PayloadTooLarge, match="the pictures up to instance 2 have 300 pixels"):
        rows(COLOUR, *[b64(file(drawn("RGB", (10, 10))))] * 3)
    monkeypatch.setattr(pictures, "MOST_BYTES", 8 * 12 * 3 * 4 * 2)
    with pytest.raises(PayloadTooLarge, match="there are 3 pictures; at most 2 of this model's size"):
        rows(COLOUR, *[b64(file(drawn("RGB", (1, 1))))] * 3)


WHOLE = [file(drawn("RGB", (12, 8))), file(drawn("RGB", (12, 8)), "JPEG", exif=turned(6)), file(drawn("RGB", (12, 8)).quantize(4))]
damaged = st.tuples(st.sampled_from(WHOLE), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6), st.floats(0, 1))


@pytest.mark.filterwarnings("ignore:::PIL")
@settings(max_examples=150, deadline=None)
@given(damaged, st.booleans())
def test_damaged_pictures_never_raise_anything_but_a_service_error(damage, cut):
    whole, changes, end = damage
    data = bytearray(whole)
    for at, byte in changes:
        data[int(at * (len(data) - 1))] = byte
    data = data[: int(end * len(data))] if cut else data
    try:
        assert read(COLOUR, bytes(data)).shape == (3, 8, 12)
    except ServiceError as error:
        assert error.status < 500  # noqa: PT017


@pytest.mark.filterwarnings("ignore:::PIL")
@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xd8\xff\xe1\0\x20Exif\0\0"]))
def test_garbage_never_raises_anything_but_a_service_error(garbage, opening):
    data = opening + garbage
    for attempt in (
        lambda: read(COLOUR, data),
        lambda: rows(COLOUR, b64(data)),
        lambda: read(COLOUR, data, "multipart/form-data; boundary=b"),
    ):
        with pytest.raises(ServiceError) as error:
            attempt()
        assert error.value.status < 500
    with contextlib.suppress(ServiceError):
        COLOUR.rows([msgspec.Raw(data)])


def test_an_example_is_a_png_of_the_row_where_its_pixels_are_bytes():
    row = read(GREY, file(drawn()))
    np.testing.assert_array_equal(rows(GREY, GREY.instance(row))[0], row)
    colour = read(COLOUR, file(drawn("RGB", (12, 8))))
    np.testing.assert_array_equal(rows(COLOUR, COLOUR.instance(colour))[0], colour)
    assert GREY.instance(row / 255) is None
    assert GREY.instance(row - 300) is None
