"""IDX, the format of MNIST and its relatives, plain or gzipped: images in one file, their labels in another.

The format (LeCun et al., yann.lecun.com/exdb/mnist): two zero bytes, one for the type of the values, one for the number of
axes, the size of each axis as a big-endian 32-bit integer, then the values, big-endian, the last axis fastest.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from modelrepo.tensors import Array
from training.data.dataset import DataError, Dataset
from training.data.images import channels_first, describe_images
from training.data.parts import Name, Part, assemble
from training.data.source import Source

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP = b"\x1f\x8b"
MOST_AXES = 4  # images, rows, columns, channels
CHUNK = 2**20


def load_idx(path: Path, source: Source) -> Dataset:
    """Labelled images from an IDX file of images, or from a folder with one pair of files or an official split.

    The labels lie beside the images, in the file named by MNIST's convention: images-idx3 -> labels-idx1. In a folder, the
    pair whose name begins with train is for training, that with t10k or test for the test; a lone pair is divided. Pixels
    stay as they are, `image` [N, C, H, W] float32. Raises DataError naming the file and what is wrong with it.
    """
    parts: dict[Name, Part] = {name: _part(images) for name, images in _images(path).items()}
    for name, file in (("validation", source.validation_data), ("test", source.test_data)):
        if file and name in parts:
            raise DataError(f"{path}: has {name} images of its own; leave out --{name}-data {file}")
        if file:
            found = _images(file)
            parts[name] = _part(found.get(name) or found["train"])
    return assemble(path.resolve().name, replace(source, target=("label",), task="classification"), parts, describe_images)


def is_images_file(path: Path) -> bool:
    """Whether this is a file of images by MNIST's convention."""
    return path.is_file() and "images" in path.name and "idx" in path.name


def read_idx(path: Path) -> Array:
    """The array in an IDX file, gzipped or not, of the shape and type it says, in the machine's byte order.

    Raises DataError where the file is cut off, longer than it says, or of another format.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES or not 1 <= head[3] <= MOST_AXES:
                raise DataError(
                    f"{path}: begins with {head.hex(' ') or 'nothing'}, where IDX has 00 00, a type (08 to 0e) and 01 to 04 axes"
                )
            axes = head[3]
            sizes = file.read(4 * axes)
            if len(sizes) < 4 * axes:
                raise DataError(f"{path}: ends at byte {4 + len(sizes)}, before the sizes of its {axes} axes")
            shape = struct.unpack(f">{axes}I", sizes)
            dtype = np.dtype(TYPES[head[2]])
            expected = math.prod(shape) * dtype.itemsize
            data = bytearray()
            while len(data) <= expected and (chunk := file.read(CHUNK)):  # a foreign size must not reserve memory
                data += chunk
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: broken or cut off: {error}") from error
    if len(data) != expected:
        start = 4 + 4 * axes
        raise DataError(
            f"{path}: says {' x '.join(map(str, shape))} values of {dtype.itemsize} bytes, which end at byte {start + expected}, "
            f"but {'goes on after that' if len(data) > expected else f'ends at byte {start + len(data)}'}; fetch it anew"
        )
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _images(path: Path) -> dict[Name, Path]:
    """The files of images for each split."""
    if not path.is_dir():
        return {"train": path}
    files = {file.name.removesuffix(".gz"): file for file in sorted(path.iterdir(), reverse=True) if is_images_file(file)}
    if len(files) == 1:
        return {"train": next(iter(files.values()))}
    found: dict[Name, Path] = {}
    for name, file in files.items():
        first = name.split("images")[0].rstrip("-_.")
        split: Name | None = "train" if first.endswith("train") else "test" if first.endswith(("t10k", "test")) else None
        if split is None or split in found:
            raise DataError(f"{path}: which of these files to read: {', '.join(sorted(files))}? Give the file, and --test-data")
        found[split] = file
    if "train" not in found:
        raise DataError(
            f"{path}: no file of training images; there is {', '.join(sorted(files)) or 'none of the name *images-idx3-ubyte'}"
        )
    return found


def _part(path: Path) -> Part:
    images = read_idx(path)
    if images.ndim not in (3, 4) or not len(images):
        raise DataError(f"{path}: holds an array of shape {list(images.shape)}; images are [rows, height, width]")
    file = _labels(path)
    labels = read_idx(file)
    if labels.shape != images.shape[:1]:
        raise DataError(f"{file}: holds labels of shape {list(labels.shape)} for {len(images)} images of {path.name}")
    image = channels_first(images).astype(np.float32)
    if not np.isfinite(image).all():
        at = [int(i) for i in np.argwhere(~np.isfinite(image))[0]]
        raise DataError(f"{path}: image {at[0]}, counted from 0, has a pixel that is no finite number, at {at[1:]}")
    return Part(file, {"image": image}, pl.DataFrame({"label": labels}))


def _labels(images: Path) -> Path:
    """The file of the labels beside a file of images, either of them gzipped or not."""
    if "images" not in images.name:
        raise DataError(f"{images}: to find the labels, the name must hold `images`, as train-images-idx3-ubyte does")
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    for candidate in (images.with_name(name), images.with_name(f"{name}.gz")):
        if candidate.is_file():
            return candidate
    raise DataError(f"{images}: its labels are missing: no file {name} or {name}.gz beside it")
