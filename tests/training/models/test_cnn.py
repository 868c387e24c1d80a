from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch

from modelrepo.tasks import Multiclass
from modelrepo.tensors import DEFAULT_BATCH
from tests.training.models.samples import (
    COLOUR,
    GREY,
    LABELS,
    NUMBERS,
    SERIES,
    TASKS,
    assert_export_is_equal,
    inputs,
    padding_changes,
    without_gradient,
)
from training.data.dataset import Images
from training.models import CNNConfig, build
from training.models.cnn.config import DEFAULTS, Architecture
from training.models.layers import Activation, Norm
from training.models.sequences import sequence_inputs

SMALL = {
    "lenet5": CNNConfig(architecture="lenet5", channels=(2, 3)),
    "alexnet": CNNConfig(architecture="alexnet", channels=(4, 4, 4, 4, 4)),
    "vgg": CNNConfig(architecture="vgg", channels=(4, 6)),
    "googlenet": CNNConfig(architecture="googlenet", channels=(48, 64), blocks=1),
    "resnet": CNNConfig(channels=(4, 8)),
    "bottlenecks": CNNConfig(channels=(16, 16), blocks=2, bottleneck=True),
    "densenet": CNNConfig(architecture="densenet", channels=(4, 6), blocks=2, growth=3),
    "dense bottlenecks": CNNConfig(architecture="densenet", channels=(4, 6), blocks=1, growth=3, bottleneck=True),
}
SIZES = [(8, 8), (28, 28), (32, 32), (9, 5), (1, 1), (40, 35)]


def small(name, **changes):
    return replace(SMALL[name], **changes)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("name", SMALL)
def test_pictures_of_any_small_size_are_taken(name, height, width, channels):
    kind = Images(height=height, width=width, mean=(0.0,) * channels, scale=(1.0,) * channels)
    model = build(SMALL[name], kind, LABELS).eval()
    assert model(**inputs(model, rows=2)).shape == (2, 3)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.type)
@pytest.mark.parametrize("kind", [GREY, SERIES], ids=lambda kind: kind.input)
@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_the_default_of_every_architecture_answers_every_task(architecture, kind, task):
    model = build(CNNConfig(architecture=architecture), kind, task).eval()
    assert tuple(model(**inputs(model)).shape) == model.signature().outputs[0].shape_at(5)


@pytest.mark.parametrize("kind", [COLOUR, SERIES], ids=lambda kind: kind.input)
@pytest.mark.parametrize("norm", get_args(Norm))
@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name, norm, kind):
    torch.manual_seed(1)
    assert without_gradient(build(small(name, norm=norm, activation="elu"), kind, LABELS)) == []


@pytest.mark.parametrize("activation", get_args(Activation))
def test_gradients_pass_every_activation(activation):
    torch.manual_seed(0)
    assert without_gradient(build(CNNConfig(channels=(8, 8), activation=activation), GREY, LABELS)) == []


@pytest.mark.parametrize("length", [13, 18])
@pytest.mark.parametrize("norm", get_args(Norm))
@pytest.mark.parametrize("name", SMALL)
def test_padding_never_changes_an_answer(name, norm, length):
    torch.manual_seed(0)
    model = build(small(name, norm=norm, activation="sigmoid"), SERIES, LABELS)  # sigmoid makes 0.5 of the padding's zeros
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.normal_(module.running_mean)  # so that the norm shifts
    assert padding_changes(model, length) < 1e-5


def test_padding_has_no_part_in_what_batch_norms_learn():
    batch, statistics = None, []
    for extra in (0, 6):
        torch.manual_seed(0)
        model = build(SMALL["resnet"], SERIES, LABELS).train()
        batch = batch or inputs(model, rows=4, length=9)
        padded = {name: torch.cat([t, torch.zeros(4, extra, *t.shape[2:], dtype=t.dtype)], dim=1) for name, t in batch.items()}
        output = model(**padded)
        statistics.append({"output": output, **{name: b for name, b in model.named_buffers() if "running" in name}})
    for name, value in statistics[0].items():
        torch.testing.assert_close(statistics[1][name], value, msg=lambda m, name=name: f"{name}: {m}")


def test_the_average_over_time_counts_real_steps_only():
    model = build(CNNConfig(channels=(2,), norm="none"), SERIES, LABELS).eval()
    pooled = []
    model.head.register_forward_pre_hook(lambda _, arguments: pooled.append(arguments[0]))
    sequence, mask = torch.randn(1, 4, 2), torch.tensor([[True, True, True, False]])
    model(sequence=sequence, mask=mask)
    model(sequence=sequence[:, :3], mask=mask[:, :3])
    torch.testing.assert_close(*pooled)


def test_pictures_are_averaged_whole():
    model = build(CNNConfig(channels=(2,), norm="none", init="zeros"), GREY, LABELS).eval()
    features = []
    model.head.register_forward_pre_hook(lambda _, arguments: features.append(arguments[0]))
    with torch.no_grad():
        model.body[0][0].convolution.bias.copy_(torch.tensor([3.0, 7.0]))  # the stem; the residual block adds nothing
    model(**inputs(model, rows=1))
    assert features[0].tolist() == [[3, 7]]


def test_the_default_is_the_network_of_the_digits_demo():
    digits = Multiclass(labels=tuple("0123456789"))
    model = build(CNNConfig(), GREY, digits)
    # stem 3x3 1 -> 32; one basic block of 32; one of 64 with stride 2 and a 1x1 shortcut; BN after each; a dense head
    convolutions = 9 * 32 + 2 * 9 * 32 * 32 + 9 * 32 * 64 + 9 * 64 * 64 + 32 * 64
    assert sum(p.numel() for p in model.parameters()) == convolutions + 2 * (3 * 32 + 3 * 64) + 64 * 10 + 10


def test_each_later_stage_of_a_resnet_halves_height_and_width():
    model = build(CNNConfig(channels=(4, 4, 4)), GREY, LABELS)
    shapes = []
    model.body[-1].register_forward_pre_hook(lambda _, arguments: shapes.append(arguments[0].values.shape))
    model(**inputs(model))
    assert shapes == [(5, 4, 2, 2)]


def test_bottlenecks_and_growth_decide_what_is_convolved():
    def shapes(config):
        return [tuple(p.shape) for p in build(config, GREY, LABELS).body.parameters() if p.ndim == 4]

    assert shapes(CNNConfig(channels=(8,), bottleneck=True)) == [(8, 1, 3, 3), (2, 8, 1, 1), (2, 2, 3, 3), (8, 2, 1, 1)]
    dense = CNNConfig(architecture="densenet", channels=(6,), blocks=3, growth=5)
    assert shapes(dense) == [(6, 1, 3, 3), (5, 6, 3, 3), (5, 11, 3, 3), (5, 16, 3, 3)]
    inception = CNNConfig(architecture="googlenet", channels=(16,), blocks=1)
    branches = [(4, 16, 1, 1), (6, 16, 1, 1), (8, 6, 3, 3), (1, 16, 1, 1), (2, 1, 5, 5), (2, 16, 1, 1)]
    assert shapes(inception) == [(16, 1, 3, 3), *branches]


def test_lenet_frames_small_pictures_as_its_paper_does():
    torch.manual_seed(0)
    small_picture = Images(height=28, width=28, mean=(2.0,), scale=(1.0,))
    framed = Images(height=32, width=32, mean=(2.0,), scale=(1.0,))
    model, other = (build(CNNConfig(architecture="lenet5"), kind, LABELS).eval() for kind in (small_picture, framed))
    other.load_state_dict(model.state_dict())
    image = torch.randn(2, 1, 28, 28)
    surrounded = torch.full((2, 1, 32, 32), 2.0)  # the mean, which standardising turns into zeros
    surrounded[:, :, 2:30, 2:30] = image
    torch.testing.assert_close(model(image=image), other(image=surrounded))


def test_series_have_the_inputs_of_every_sequence_family():
    assert build(CNNConfig(), SERIES, NUMBERS).signature().inputs == sequence_inputs(SERIES, DEFAULT_BATCH)


def test_none_stands_for_the_architecture_s_own_figures():
    config = CNNConfig(architecture="vgg")
    assert (config.widths, config.depth) == DEFAULTS["vgg"]
    assert CNNConfig().widths == (32, 64)
    assert (CNNConfig(channels=(8,), blocks=3).widths, CNNConfig(blocks=3).depth) == ((8,), 3)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"architecture": "lenet"}, "architecture must be one of lenet5, alexnet, .* not 'lenet'"),
        ({"architecture": "alexnet", "channels": (32, 64)}, r"channels must be 5 numbers for alexnet, or None, not \[32, 64\]"),
        ({"channels": ()}, "channels must name at least one stage"),
        ({"channels": (8, 0)}, "channels must be at least 1, not 0"),
        ({"channels": (6,), "bottleneck": True}, "channels must be multiples of 4 for bottlenecks, not 6"),
        ({"architecture": "googlenet", "channels": (24,)}, "channels must be multiples of 16 for inception blocks, not 24"),
        ({"blocks": 0}, "blocks must be at least 1, not 0"),
        ({"growth": 0}, "growth must be at least 1, not 0"),
        ({"activation": "swish"}, "activation must be one of"),
        ({"norm": "group"}, "norm must be one of"),
        ({"dropout": -0.1}, "dropout must be at least 0 and below 1, not -0.1"),
        ({"init": "ones"}, "init must be one of"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(fault, message):
    with pytest.raises(ValueError, match=message):
        CNNConfig(**fault)


# Exports take seconds each; the quick ones stand for their kind, the others run with `-m slow`.
QUICK = [("resnet", SERIES)]
EXPORTS = [
    pytest.param(SMALL[name], kind, id=f"{name}, {kind.input}", marks=() if (name, kind) in QUICK else pytest.mark.slow)
    for name in SMALL
    for kind in (GREY, SERIES)
]


@pytest.mark.parametrize(("config", "kind"), EXPORTS)
def test_an_export_answers_as_the_original(config, kind, tmp_path):
    torch.manual_seed(0)
    assert_export_is_equal(build(config, kind, NUMBERS), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["layer", "rms", "none"])
@pytest.mark.parametrize("kind", [COLOUR, SERIES], ids=lambda kind: kind.input)
def test_an_export_answers_as_the_original_with_every_norm(norm, kind, tmp_path):
    torch.manual_seed(0)
    assert_export_is_equal(build(CNNConfig(channels=(4, 8), norm=norm, activation="gelu"), kind, LABELS), tmp_path)
