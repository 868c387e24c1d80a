from __future__ import annotations

import numpy as np
import pytest
import torch

from modelrepo.tensors import ShapeRange
from training.augment import Augment, augment, mix
from training.data import DataError
from training.data.dataset import Images, Series, Tokens

LENGTH = ShapeRange(axis="length", min=1, opt=5, max=12)
IMAGES = Images(height=8, width=6, mean=(0.0,), scale=(1.0,))
SERIES = Series(length=LENGTH, mean=(5.0, -5.0), scale=(2.0, 0.5))
TOKENS = Tokens(length=LENGTH, vocabulary=9)


def random(seed=0):
    return np.random.default_rng(seed)


def moved(image, seed=0, **options):
    return augment({"image": image}, IMAGES, Augment(**options), random(seed))["image"]


def dot(n=200, at=(4, 3)):
    image = torch.zeros(n, 1, 8, 6)
    image[:, :, at[0], at[1]] = 1
    return image


def test_without_options_nothing_changes():
    image = torch.rand(3, 1, 8, 6)
    assert moved(image) is image


def test_a_shift_moves_whole_pixels_and_as_far_as_it_says_but_no_further():
    after = moved(dot(), shift=2)
    places = {tuple(place[1:].tolist()) for place in (after[:, 0] > 0.999).nonzero()}
    assert places == {(y, x) for y in range(2, 7) for x in range(1, 6)}
    assert after.sum((1, 2, 3)).tolist() == pytest.approx([1.0] * 200, abs=1e-4)


def test_what_comes_in_from_outside_is_black():
    assert moved(torch.ones(50, 1, 8, 6), shift=3).min() == 0


def test_flip_mirrors_about_half_of_the_pictures_left_and_right():
    columns = moved(dot(400), flip=True)[:, 0, 4].argmax(1)
    assert set(columns.tolist()) == {2, 3}
    assert 150 < (columns == 2).sum() < 250


def test_a_rotation_keeps_the_distance_from_the_middle():
    image = torch.zeros(1, 1, 31, 21)
    image[:, :, 15, 18:21] = image[:, :, 14:17, 19] = 1  # a blot 9 pixels right of the middle
    kind = Images(height=31, width=21, mean=(0.0,), scale=(1.0,))
    after = augment({"image": image.expand(50, -1, -1, -1)}, kind, Augment(rotate=90), random())["image"][:, 0]
    y, x = torch.meshgrid(torch.arange(31) - 15.0, torch.arange(21) - 10.0, indexing="ij")
    mass = after.sum((1, 2))
    inside = mass > 4.5  # the others have left the picture at its side
    distance = ((after * y).sum((1, 2)) / mass).hypot((after * x).sum((1, 2)) / mass)[inside]
    assert distance.tolist() == pytest.approx([9.0] * len(distance), abs=0.4)
    assert inside.sum() > 20


def test_a_crop_only_enlarges():
    board = torch.zeros(100, 1, 8, 6)
    board[:, :, 2:6, 2:4] = 1
    assert moved(board, crop=0.4).sum((1, 2, 3)).min() > 7.5


def test_the_same_seed_changes_the_same_and_another_does_not():
    image = torch.rand(20, 1, 8, 6)
    options = {"shift": 2, "rotate": 20, "crop": 0.2, "flip": True}
    assert torch.equal(moved(image, **options), moved(image, **options))
    assert not torch.equal(moved(image, **options), moved(image, seed=1, **options))


def test_mixup_averages_pairs_by_the_share_it_reports():
    image = torch.rand(6, 1, 8, 6)
    mixed, how = mix(image, Augment(mixup=0.4), random())
    torch.testing.assert_close(mixed, how.share * image + (1 - how.share) * image[how.other])
    assert 0 < how.share < 1


def test_cutmix_reports_the_share_of_pixels_that_stayed():
    image = torch.arange(6.0)[:, None, None, None].expand(6, 1, 8, 6)
    for seed in range(20):
        mixed, how = mix(image, Augment(cutmix=1.0), random(seed))
        row = next(row for row in range(6) if how.other[row] != row)
        assert (mixed[row] == row).float().mean() == pytest.approx(how.share)
        assert set(mixed[row].unique().tolist()) <= {float(row), float(how.other[row])}
    assert torch.equal(image[:, 0, 0, 0], torch.arange(6.0)), "the rows of the data set are left alone"


def series(n=400):
    lengths = torch.arange(n) % 8 + 5
    mask = torch.arange(12) < lengths[:, None]
    return {"sequence": torch.full((n, 12, 2), 1.0) * mask.unsqueeze(2), "mask": mask}


def test_jitter_is_measured_in_each_channels_standard_deviation():
    before = series()
    after = augment(before, SERIES, Augment(jitter=0.1), random())
    change = (after["sequence"] - before["sequence"])[before["mask"]]
    assert change.std(0).tolist() == pytest.approx([0.2, 0.05], rel=0.1)
    assert after["sequence"][~before["mask"]].abs().max() == 0


def test_an_offset_moves_all_steps_of_a_series_alike_and_each_channel_and_series_by_itself():
    before = series()
    after = augment(before, SERIES, Augment(offset=0.1), random())
    change = after["sequence"] - before["sequence"]
    torch.testing.assert_close(change, change[:, :1] * before["mask"].unsqueeze(2))
    moves = change[:, 0]
    assert moves.std(0).tolist() == pytest.approx([0.2, 0.05], rel=0.1)
    assert moves.mean(0).tolist() == pytest.approx([0, 0], abs=0.03)
    assert abs(torch.corrcoef(moves.T)[0, 1]) < 0.15


def test_a_time_mask_hides_one_stretch_behind_the_mean():
    before = series()
    after = augment(before, SERIES, Augment(time_mask=0.5), random())
    hidden = (after["sequence"] == torch.tensor([5.0, -5.0])).all(2)
    assert not (hidden & ~before["mask"]).any()
    stretches = (hidden[:, 1:] & ~hidden[:, :-1]).sum(1) + hidden[:, 0]
    assert set(stretches.tolist()) == {0, 1}
    share = hidden.sum(1) / before["mask"].sum(1)
    assert 0.15 < share.mean() < 0.35
    assert share.max() <= 0.6


def test_token_dropout_leaves_tokens_out_and_moves_the_rest_to_the_front():
    mask = torch.arange(12) < torch.full((300, 1), 9)
    before = {"tokens": torch.arange(1, 13).expand(300, 12) * mask, "mask": mask}
    after = augment(before, TOKENS, Augment(token_dropout=0.25), random())
    assert after["mask"].sum(1).float().mean() == pytest.approx(0.75 * 9, abs=0.2)
    assert torch.equal(after["tokens"] > 0, after["mask"])
    assert (after["mask"].int().diff(dim=1) <= 0).all()
    for tokens in after["tokens"]:
        left = tokens[tokens > 0]
        assert (left.diff() > 0).all()


def test_token_dropout_leaves_one_token_of_every_row():
    mask = torch.arange(4) < torch.tensor([[1], [2], [4]])
    before = {"tokens": torch.full((3, 4), 7) * mask, "mask": mask}
    assert augment(before, TOKENS, Augment(token_dropout=0.999), random())["tokens"].tolist() == [[7, 0, 0, 0]] * 3


@pytest.mark.parametrize(
    ("option", "kind", "message"),
    [
        ({"flip": True}, SERIES, "--augment.flip does not suit series: leave it out"),
        ({"time_mask": 0.1}, IMAGES, "--augment.time-mask does not suit images"),
        ({"offset": 0.1}, TOKENS, "--augment.offset does not suit tokens"),
    ],
)
def test_what_does_not_suit_the_data_is_refused(option, kind, message):
    with pytest.raises(DataError, match=message):
        Augment(**option).check(kind)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"shift": -1}, "augment.shift must not be negative"), ({"time_mask": 1.0}, "augment.time_mask is a share below 1")],
)
def test_options_that_make_no_sense_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        Augment(**option)
