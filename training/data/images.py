"""Images: a folder with one folder per class, and what images have in common whatever file they come from."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median_low

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image, ImageOps

from modelrepo.tensors import Array
from training.data import tables
from training.data.dataset import DataError, Dataset, Images, Split, moments
from training.data.parts import Name, Part, assemble
from training.data.source import Source

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
OFFICIAL: dict[str, Name] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
MOST_BYTES = 8 * 2**30  # what the pictures of one data set may take in memory
GREY = ("1", "L", "LA")  # Pillow's modes without colour
DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # … and those with more than 8 bits
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)

Size = tuple[int, int]  # height, width


def channels_first(images: Array) -> Array:
    """Images as [N, C, H, W], made of [N, H, W], [N, C, H, W] or [N, H, W, C].

    Channels are taken to be last where the last axis is shorter than the second.
    """
    if images.ndim == 3:
        return images[:, None]  # [N, H, W] -> [N, 1, H, W]
    if images.shape[-1] < images.shape[1]:
        return np.ascontiguousarray(np.moveaxis(images, -1, 1))  # [N, H, W, C] -> [N, C, H, W]
    return images


def describe_images(train: Split, *_others: Split) -> Images:
    """The kind of `image` [N, C, H, W], standardised per channel by the training images."""
    image = train.inputs["image"]
    return Images(height=image.shape[2], width=image.shape[3], **moments(image, (0, 2, 3)))


def load_images(path: Path, source: Source) -> Dataset:
    """A folder whose folders are the classes; folders called train and test (val too) hold an official split of the same form.

    Pictures lie at any depth below their class, in one of the formats of SUFFIXES. Pixels are 0 to 255, turned as their EXIF
    data says. If all pictures are grey there is one channel, else all are RGB, without transparency. Pictures of different
    sizes are refused unless `--image-size` says what to resize them to (bilinear, smoothed where it shrinks). `handling`
    counts what was resized and which files are no pictures. Raises DataError naming a file that is broken, or unlike the rest.
    """
    folders = _official(path)
    for name, folder in (("validation", source.validation_data), ("test", source.test_data)):
        if folder and name in folders:
            raise DataError(f"{path}: has a folder for {name}; leave out --{name}-data {folder}")
        if folder:
            folders[name] = folder
    pictures = {name: _classes(folder) for name, folder in folders.items()}
    for name, classes in pictures.items():
        if strangers := [label for label in classes if label not in pictures["train"]]:
            near = tables.near(strangers[0], pictures["train"])
            known = tables.listed(pictures["train"])
            raise DataError(f"{folders[name] / strangers[0]}: no such class in {folders['train']}{near}, which has {known}")

    looked = {file: _look(file) for classes in pictures.values() for files in classes.values() for file in files}
    height, width = size = source.image_size or _common_size({file: size for file, (size, _) in looked.items()})
    mode = "L" if all(grey for _, grey in looked.values()) else "RGB"
    needed = len(looked) * height * width * len(mode) * 4  # float32
    if needed > MOST_BYTES:
        raise DataError(
            f"{path}: {len(looked)} pictures of {height}x{width} would take {needed / 2**30:.0f} GiB of memory; "
            "shrink them with --image-size HEIGHT WIDTH"
        )
    resized = sum(found != size for found, _ in looked.values())
    others = sum(not _is_picture(file) for folder in folders.values() for file in _below(folder))
    return assemble(
        path.resolve().name,
        replace(source, target=("class",), task="classification"),
        {
            name: Part(
                folders[name],
                {"image": _read([file for files in classes.values() for file in files], size, mode)},
                pl.DataFrame({"class": [label for label, files in classes.items() for _ in files]}),
            )
            for name, classes in pictures.items()
        },
        describe_images,
        {
            "channels": "grey" if mode == "L" else "red, green, blue",
            **({f"pictures resized to {height}x{width}": resized} if resized else {}),
            **({"files that are no pictures": others} if others else {}),
        },
    )


def _official(path: Path) -> dict[Name, Path]:
    """The folder of each official split; that of the training rows is `path` itself where there are no such folders."""
    folders = _folders(path)
    if any(folder.name.lower() == "train" for folder in folders) and all(folder.name.lower() in OFFICIAL for folder in folders):
        return {OFFICIAL[folder.name.lower()]: folder for folder in folders}
    return {"train": path}


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(
            f"{path}: {'is a file, where a folder with one folder per class is needed' if path.exists() else 'no such folder'}"
        )
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _below(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _classes(path: Path) -> dict[str, list[Path]]:
    """The pictures of each class, in the order of their names."""
    classes = {folder.name: [file for file in _below(folder) if _is_picture(file)] for folder in _folders(path)}
    if not classes:
        raise DataError(
            f"{path}: has no folders; images lie in one folder per class, whose name is the label, and for other data give the file"
        )
    for label, files in classes.items():
        if not files:
            raise DataError(f"{path / label}: no pictures in this class ({', '.join(SUFFIXES)}); remove the folder, or fill it")
        if label.lower() in tables.MISSING:
            raise DataError(f"{path / label}: {label!r} stands for a missing label; give the class another name")
    return classes


def _look(file: Path) -> tuple[Size, bool]:
    """The size a picture has once turned, and whether it is grey, without decoding it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file) as image:
                turned = image.getexif().get(0x0112, 1) >= 5  # EXIF's orientations 5 to 8 lie on their side
                width, height = image.size
                mode = image.mode
        except BROKEN as error:
            raise DataError(f"{file}: cannot be read as a picture: {error}") from error
    if mode in DEEP:
        raise DataError(f"{file}: has pixels of more than 8 bits (Pillow's mode {mode}); save it with 8 bits a channel")
    return (width, height) if turned else (height, width), mode in GREY


def _common_size(sizes: dict[Path, Size]) -> Size:
    """The size of all pictures. Raises DataError naming one that differs from the most frequent size."""
    common, _ = Counter(sizes.values()).most_common(1)[0]
    for file, size in sizes.items():
        if size != common:
            middle = [median_low(each[axis] for each in sizes.values()) for axis in (0, 1)]
            raise DataError(
                f"{file}: is {size[0]}x{size[1]} (height x width), most are {common[0]}x{common[1]}; "
                f"resize all with --image-size HEIGHT WIDTH, the median is {middle[0]} {middle[1]}"
            )
    return common


def _read(files: Sequence[Path], size: Size, mode: str) -> npt.NDArray[np.float32]:
    """The pictures as [N, C, H, W], 0 to 255."""
    height, width = size
    pixels = np.empty((len(files), height, width, len(mode)), np.uint8)
    for number, file in enumerate(files):
        try:
            with Image.open(file) as image:
                upright = ImageOps.exif_transpose(image)
                if upright.mode in ("P", "PA"):
                    upright = upright.convert("RGBA")  # through which Pillow reads a palette's transparency
                upright = upright.convert(mode)
                if upright.size != (width, height):
                    upright = upright.resize((width, height), Image.Resampling.BILINEAR)
        except BROKEN as error:
            raise DataError(f"{file}: is broken: {error}") from error
        pixels[number] = np.asarray(upright).reshape(height, width, len(mode))
    return np.moveaxis(pixels, -1, 1).astype(np.float32, order="C")  # [N, H, W, C] -> [N, C, H, W]
