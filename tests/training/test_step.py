"""One optimiser step: how a batch is divided, how its gradient is clipped, in which arithmetic it is computed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY
from training import loop
from training.distributed import World
from training.models import MLPConfig, build
from training.optimisation import Optimisation
from training.state import State
from training.step import Step
from training.tasks import Objective

SGD = Optimisation(
    optimizer="sgd", momentum=0.0, weight_decay=0.0, learning_rate=0.1, warmup=0.0, schedule="constant", clip_norm=None
)
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def spirals():
    return loop.load(replace(TINY["mlp"], out=Path("never")))


def step_once(dataset, *, rows=31, compiled=False, **options):
    """The model before and after one step on the first rows, the loss, and the norm of the gradient."""
    config = replace(TINY["mlp"], model=MLPConfig(hidden=(8,), norm="layer"), optimisation=replace(SGD, **options))
    torch.manual_seed(0)
    model = build(config.model, dataset.kind, dataset.task).train()
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    split = dataset.train(1)
    objective = Objective(dataset.task, config.loss, split.targets)
    net = torch.compile(model) if compiled else model
    step = Step(net, State(model, config.optimisation, 1, 1), objective, dataset.kind, config, ALONE)
    loss, norm = step(split, torch.arange(rows))
    moved = torch.nn.utils.parameters_to_vector(model.parameters()).detach() - before
    return moved, float(loss), float(norm)


def test_a_step_of_sgd_moves_the_weights_by_rate_times_gradient_whose_norm_is_told(spirals):
    moved, _, norm = step_once(spirals)
    assert float(moved.norm()) == pytest.approx(0.1 * norm, rel=1e-4)


@pytest.mark.parametrize("parts", [2, 3, 31])
def test_parts_of_a_batch_add_up_to_the_step_of_the_whole(spirals, parts):
    """31 rows in 2 or 3 parts are parts of unequal size."""
    whole, divided = step_once(spirals), step_once(spirals, accumulate=parts)
    torch.testing.assert_close(divided[0], whole[0], atol=1e-6, rtol=1e-5)
    assert divided[1:] == pytest.approx(whole[1:], rel=1e-5)


def test_clipping_by_norm_scales_the_whole_gradient_and_tells_its_norm_before(spirals):
    free, _, norm = step_once(spirals)
    clipped, _, told = step_once(spirals, clip_norm=norm / 4)
    assert told == pytest.approx(norm)
    torch.testing.assert_close(clipped, free / 4, atol=1e-6, rtol=1e-3)


def test_clipping_by_value_cuts_each_element(spirals):
    free = step_once(spirals)[0]
    limit = 0.1 * float(free.abs().max()) / 2
    clipped = step_once(spirals, clip_value=limit / 0.1)[0]
    torch.testing.assert_close(clipped, free.clamp(-limit, limit), atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_takes_nearly_the_step_of_full_precision(spirals, precision):
    full, half = step_once(spirals), step_once(spirals, precision=precision)
    assert half[1] == pytest.approx(full[1], rel=2e-2)
    assert float((half[0] - full[0]).norm() / full[0].norm()) < 5e-2
    assert half[1] != full[1], "the forward pass was not computed in half precision"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # inside PyTorch's own compiler
def test_a_compiled_network_takes_the_same_step(spirals):
    whole, compiled = step_once(spirals), step_once(spirals, compiled=True)
    torch.testing.assert_close(compiled[0], whole[0], atol=1e-6, rtol=1e-4)
