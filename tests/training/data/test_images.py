from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import data
from training.data import images
from training.data.dataset import DataError
from training.data.source import Source

RNG = np.random.default_rng(0)


def picture(path: Path, size: tuple[int, int] = (6, 4), mode: str = "L", **options: object) -> np.ndarray:
    """Save a random picture of (width, height); its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    pixels = RNG.integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels, mode=None).save(path, **options)
    return pixels


def folder(path: Path, classes: str = "cat dog", count: int = 10, mode: str = "L") -> Path:
    for label in classes.split():
        for number in range(count):
            picture(path / label / f"{number}.png", mode=mode)
    return path


def test_folders_are_classes_and_pixels_stay_raw(tmp_path):
    dataset = data.load(str(folder(tmp_path / "pets")))
    assert dataset.name == "pets"
    assert dataset.task.labels == ("cat", "dog")
    assert [len(dataset.train(1)), len(dataset.validation), len(dataset.test)] == [14, 2, 4]
    assert (dataset.kind.height, dataset.kind.width, len(dataset.kind.mean)) == (4, 6, 1)
    stored = {np.asarray(Image.open(file)).tobytes(): file.parent.name for file in (tmp_path / "pets").rglob("*.png")}
    for image, target in zip(dataset.test.inputs["image"], dataset.test.targets[:, 0], strict=True):
        assert stored[image[0].astype(np.uint8).tobytes()] == dataset.task.labels[int(target)]
    assert dataset.handling["channels"] == "grey"


def test_train_and_test_folders_are_an_official_split(tmp_path):
    folder(tmp_path / "train")
    folder(tmp_path / "test", count=2)
    dataset = data.load(str(tmp_path))
    assert [len(dataset.train(1)), len(dataset.validation), len(dataset.test)] == [18, 2, 4]
    with pytest.raises(DataError, match="has a folder for test; leave out --test-data"):
        data.load(str(tmp_path), Source(test_data=tmp_path / "test"))
    folder(tmp_path / "test", "cta")
    with pytest.raises(DataError, match=r"cta: no such class in .*train \(did you mean 'cat'\?\), which has cat, dog"):
        data.load(str(tmp_path))


def test_train_may_be_a_class_among_others(tmp_path):
    assert data.load(str(folder(tmp_path, "bus car train"))).task.labels == ("bus", "car", "train")


def test_one_picture_in_colour_makes_all_of_them_rgb(tmp_path):
    colours = picture(folder(tmp_path / "d") / "cat/0.png", mode="RGB")
    dataset = data.load(str(tmp_path / "d"))
    assert dataset.handling["channels"] == "red, green, blue"
    everything = np.concatenate(
        [dataset.train(1).inputs["image"], dataset.validation.inputs["image"], dataset.test.inputs["image"]]
    )
    assert everything.shape == (20, 3, 4, 6)
    assert any(np.array_equal(image, np.moveaxis(colours, -1, 0)) for image in everything)
    assert sum(np.array_equal(image[0], image[2]) for image in everything) == 19


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK"])
def test_other_kinds_of_pixels_are_read(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new("RGB", (6, 4), (200, 0, 0)).convert(mode).save(folder(tmp_path) / f"cat/x.{suffix}")
    assert data.load(str(tmp_path)).kind.height == 4


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(folder(tmp_path) / "cat/0.jpg", size=(4, 6), exif=exif)
    assert data.load(str(tmp_path)).kind.height == 4, "else its 6x4 pixels would differ from the rest"


def test_a_picture_of_another_size_is_named_with_the_way_out(tmp_path):
    picture(folder(tmp_path) / "dog/big.png", size=(60, 40))
    with pytest.raises(
        DataError, match=r"dog/big.png: is 40x60 \(height x width\), most are 4x6; resize all with --image-size .* median is 4 6"
    ):
        data.load(str(tmp_path))
    dataset = data.load(str(tmp_path), Source(image_size=(8, 5)))
    assert (dataset.kind.height, dataset.kind.width) == (8, 5)
    assert dataset.handling["pictures resized to 8x5"] == 21


def test_files_that_are_no_pictures_are_counted(tmp_path):
    (folder(tmp_path) / "cat/notes.txt").write_text("cats")
    (tmp_path / "cat/.DS_Store").write_text("")
    assert data.load(str(tmp_path)).handling["files that are no pictures"] == 1


def test_pictures_may_lie_deeper(tmp_path):
    picture(folder(tmp_path) / "cat/more/of/them/1.png")
    assert sum(data.load(str(tmp_path)).handling["rows"].values()) == 21


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-25])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda path: path.write_bytes(b""), r"cat/0.png: cannot be read as a picture", id="empty"),
        pytest.param(lambda path: path.write_text("no"), r"cat/0.png: cannot be read as a picture", id="no-picture"),
        pytest.param(cut, r"cat/0.png: cannot be read as a picture: .*truncated", id="cut"),
        pytest.param(
            lambda path: Image.fromarray(np.zeros((4, 6), np.uint16)).save(path),
            r"cat/0.png: has pixels of more than 8 bits",
            id="16-bit",
        ),
    ],
)
def test_a_broken_picture_is_named(tmp_path, spoil, message):
    spoil(folder(tmp_path) / "cat/0.png")
    with pytest.raises(DataError, match=message):
        data.load(str(tmp_path))


def test_a_photograph_that_was_cut_off_is_named(tmp_path):
    picture(folder(tmp_path) / "cat/0.jpg", size=(6, 4))
    cut(tmp_path / "cat/0.jpg")
    with pytest.raises(DataError, match=r"cat/0.jpg: is broken: .*truncated"):
        data.load(str(tmp_path))


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    folder(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match=r"cat/0.png: cannot be read as a picture: .*decompression bomb"):
        data.load(str(tmp_path))


def test_more_pictures_than_memory_holds_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MOST_BYTES", 100)
    with pytest.raises(DataError, match="20 pictures of 4x6 would take 0 GiB of memory; shrink them with --image-size"):
        data.load(str(folder(tmp_path)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda path: (path / "a").mkdir(), r"a: no pictures in this class", id="empty-class"),
        pytest.param(
            lambda path: picture(path / "lone.png"), r"has no folders; images lie in one folder per class", id="no-classes"
        ),
        pytest.param(lambda path: folder(path, "only"), r"target 'class' is 'only' in every training row", id="one-class"),
        pytest.param(
            lambda path: folder(path, "na yes"), r"na: 'na' stands for a missing label; give the class another name", id="missing"
        ),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        data.load(str(tmp_path))


def test_a_test_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(DataError, match="none: no such folder"):
        data.load(str(folder(tmp_path)), Source(test_data=tmp_path / "none"))
