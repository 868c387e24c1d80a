"""PNG and JPEG to pixels, exactly as training reads them from a folder (training/data/images.py)."""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from modelrepo.tensors import Array
from service.codec import form, kind, media, options
from service.codec.kind import Schema
from service.codec.options import NONE, Options
from service.errors import InvalidRequest, PayloadTooLarge, Unprocessable, UnsupportedMediaType

MOST_PIXELS = 64 * 10**6  # of one picture, before it is shrunk to the model's size
MOST_PIXELS_IN_ALL = 256 * 10**6  # of one request: some seconds of work
MOST_BYTES = 256 * 2**20  # of one request's tensor, which a few kilobytes of one colour could make as large as they like
MODES = {1: "L", 3: "RGB"}  # by the number of channels
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of more than 8 bits
OPENINGS: tuple[tuple[bytes, type[ImageFile]], ...] = ((b"\x89PNG\r\n\x1a\n", PngImageFile), (b"\xff\xd8\xff", JpegImageFile))
FOREIGN = {b"GIF8": "GIF", b"BM": "BMP", b"RIFF": "WebP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"%PDF": "PDF", b"<svg": "SVG"}
# What parsers raise for bytes that are no picture; a quarter of a million damaged files raised the first three alone.
BROKEN = (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, EOFError, struct.error, zlib.error)
DATA_URL = re.compile(r"data:[^,]{0,100};base64,")
# Pillow warns of what it can read all the same, such as broken EXIF data: nothing a server's log should hold for each caller.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Pictures:
    """Pictures for one model. A row is float32 [channels, height, width], pixels from 0 to 255."""

    quick_bytes = 0
    schema: Schema = {  # noqa: RUF012  # nobody changes it
        "anyOf": [
            {"type": "string", "contentEncoding": "base64", "description": "a PNG or JPEG file; a data: URL is taken, too"},
            {
                "type": "object",
                "properties": {"b64": {"type": "string", "contentEncoding": "base64"}},
                "required": ["b64"],
                "additionalProperties": False,
            },
        ]
    }
    media_types: dict[str, Schema] = {  # noqa: RUF012
        "image/png": {"type": "string", "format": "binary", "description": "one picture"},
        "image/jpeg": {"type": "string", "format": "binary", "description": "one picture"},
        "multipart/form-data": {
            "type": "object",
            "properties": {
                "image": {
                    "type": "array",
                    "items": {"type": "string", "format": "binary"},
                    "minItems": 1,
                    "description": "PNG or JPEG files, under any names",
                },
            },
            "required": ["image"],
        },
    }

    def __init__(self, channels: int, height: int, width: int, resize: bool) -> None:
        """`resize` is whether training resized its pictures; where it did not, pictures of another size are refused."""
        self._mode = MODES[channels]
        self._size = (width, height)
        self._resize = resize

    def rows(self, instances: Sequence[msgspec.Raw]) -> list[Array | None]:
        """The pixels of each instance that is a string, or an object with nothing but `b64`: a file in base64."""
        files: dict[int, tuple[str, bytes]] = {}
        for position, instance in enumerate(instances):
            if memoryview(instance).tobytes()[:1] not in (b'"', b"{"):
                continue
            where, given = f"instance {position}", kind.json(position, instance)
            if isinstance(given, Mapping) and set(given) == {"b64"}:
                given = given["b64"]
                if not isinstance(given, str):
                    raise InvalidRequest(f"{where}: b64 takes a string")
            if isinstance(given, str):
                files[position] = where, _from_base64(where, given)
        found: list[Array | None] = [None] * len(instances)
        for position, pixels in zip(files, self._decoded(list(files.values())), strict=True):
            found[position] = pixels
        return found

    def read(self, body: bytes, content_type: str, max_rows: int) -> tuple[list[Array], Options]:
        """The pixels of the one picture that is the body, or of every file in a form."""
        if media.name(content_type) != "multipart/form-data":
            return self._decoded([("the body", body)]), NONE
        sent = form.read(body, content_type, max_rows)
        if not sent.files:
            raise InvalidRequest("the form has no file; send one for each picture, as `curl -F image=@picture.png` does")
        asked = options.from_pairs(sent.fields)
        return self._decoded([(f"file {kind.shown(name)!r}", content) for name, content in sent.files]), asked

    def check(self, _batch: Array) -> None:
        """Its numbers need nothing that the signature does not say."""

    def instance(self, row: Array) -> dict[str, str] | None:
        """These pixels as a PNG in base64; None where they are no whole numbers from 0 to 255."""
        if not are_bytes(row):
            return None
        png = io.BytesIO()
        pixels = np.moveaxis(row, 0, -1).astype(np.uint8)  # [C, H, W] -> [H, W, C]
        Image.fromarray(pixels[:, :, 0] if self._mode == "L" else pixels).save(png, "PNG", optimize=True)
        return {"b64": base64.b64encode(png.getvalue()).decode()}

    def body(self, _media_type: str, _row: Array) -> None:
        """There is none that is text."""
        return

    def _decoded(self, files: Sequence[tuple[str, bytes]]) -> list[Array]:
        """The pixels of each file, which errors call by the name that comes with it."""
        width, height = self._size
        most = MOST_BYTES // (4 * len(self._mode) * height * width)
        if len(files) > most:
            raise PayloadTooLarge(f"there are {len(files)} pictures; at most {most} of this model's size are taken at once")
        total = 0
        found = []
        for where, data in files:
            try:
                with _opened(where, data) as image:
                    self._check(where, image)
                    total += image.width * image.height
                    if total > MOST_PIXELS_IN_ALL:
                        raise PayloadTooLarge(
                            f"the pictures up to {where} have {total} pixels; at most {MOST_PIXELS_IN_ALL // 10**6} million "
                            "are taken at once: shrink them, or send fewer"
                        )
                    found.append(self._pixels(where, image))
            except BROKEN as error:
                raise Unprocessable(f"{where} is a broken picture ({error}): send it whole") from None
        return found

    def _pixels(self, where: str, image: ImageFile) -> Array:
        """A picture turned upright, in the model's colours and size."""
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("P", "PA"):
            upright = upright.convert("RGBA")  # through which Pillow reads a palette's transparency
        upright = upright.convert(self._mode)
        if upright.size != self._size:
            if not self._resize:
                raise self._wrong_size(where, *upright.size)
            upright = upright.resize(self._size, Image.Resampling.BILINEAR)
        width, height = self._size
        pixels = np.asarray(upright).reshape(height, width, -1)
        return np.moveaxis(pixels, -1, 0).astype(np.float32, order="C")

    def _check(self, where: str, image: ImageFile) -> None:
        """What its header says, before its pixels are unpacked."""
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise PayloadTooLarge(
                f"{where} is a picture of {height}x{width} pixels; at most {MOST_PIXELS // 10**6} million are taken: shrink it"
            )
        if image.mode in DEEP:
            raise Unprocessable(
                f"{where} has pixels of more than 8 bits (Pillow's mode {image.mode}); save it with 8 bits a channel"
            )
        if not self._resize and sorted(image.size) != sorted(self._size):  # EXIF may yet turn it on its side
            raise self._wrong_size(where, width, height)

    def _wrong_size(self, where: str, width: int, height: int) -> Unprocessable:
        wanted = f"{self._size[1]}x{self._size[0]}"
        return Unprocessable(
            f"{where} is a picture of {height}x{width} (height x width); the model takes {wanted}: resize it, or "
            "serve a model trained with --image-size, which resizes pictures itself"
        )


def are_bytes(pixels: Array) -> bool:
    """Whether all are whole numbers from 0 to 255."""
    return bool(((pixels >= 0) & (pixels <= 255) & (pixels == np.floor(pixels))).all())


def _opened(where: str, data: bytes) -> ImageFile:
    """A file whose header has been read. Raises UnsupportedMediaType for other formats, or what Pillow raises for broken ones."""
    opener = next((opener for opening, opener in OPENINGS if data.startswith(opening)), None)
    if opener is None:
        found = next((name for opening, name in FOREIGN.items() if data.startswith(opening)), None)
        begins = f"is {found}" if found else f"begins with the bytes {data[:8].hex(' ')}" if data else "is empty"
        raise UnsupportedMediaType(f"{where} {begins}; send a PNG or JPEG file")
    return opener(io.BytesIO(data))


def _from_base64(where: str, text: str) -> bytes:
    if text.startswith("data:"):
        prefix = DATA_URL.match(text)
        if prefix is None:
            raise InvalidRequest(f"{where} is a data: URL that is not in base64: send data:image/png;base64,…")
        text = text[prefix.end() :]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:  # ValueError: characters beyond ASCII
        raise InvalidRequest(f"{where} is a string that is not base64 ({error}): send a PNG or JPEG file in base64") from None
