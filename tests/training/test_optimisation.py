from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from training.models.positions import Learned
from training.optimisation import Optimisation, Rate, averaged, factor, optimizer

STEPS = 100


def course(**options):
    config = Optimisation(**options)
    return [factor(step, STEPS, config) for step in range(STEPS)]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_after_warming_up_the_rate_falls_to_zero(schedule):
    rates = course(schedule=schedule, warmup=0.1)
    assert rates[0] > 0
    assert rates[10] == max(rates) == 1
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert factor(STEPS, STEPS, Optimisation(schedule=schedule)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_a_constant_rate_stays_where_its_warm_up_took_it(schedule):
    assert course(schedule=schedule, warmup=0.0) == [1.0] * STEPS
    assert course(schedule=schedule, warmup=0.5)[50:] == [1.0] * 50


def test_the_step_schedule_falls_at_its_shares_of_the_run():
    rates = course(schedule="step", warmup=0.0, step_at=(0.5, 0.8), decay_factor=0.1)
    assert [rates[49], rates[50], rates[79]] == pytest.approx([1, 0.1, 0.1])
    assert rates[80] == pytest.approx(0.01)


def test_one_cycle_is_that_of_pytorch():
    weight = nn.Parameter(torch.zeros(1))
    other = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(other, max_lr=1.0, total_steps=STEPS, cycle_momentum=False)
    expected = []
    for _ in range(STEPS):
        expected.append(theirs.get_last_lr()[0])
        other.step()
        theirs.step()
    assert course(schedule="one-cycle") == pytest.approx(expected, abs=1e-7)


def test_a_plateau_lowers_the_rate_only_after_its_patience():
    rate, sgd = rated(schedule="plateau", warmup=0.0, plateau_patience=2, decay_factor=0.5, learning_rate=1.0)
    seen = []
    for loss in [1.0, 0.9, 0.9, 0.9, 0.9]:
        sgd.step()
        rate.after_step()
        rate.after_epoch(loss)
        seen.append(sgd.param_groups[0]["lr"])
    assert seen == [1, 1, 1, 1, 0.5]


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_a_rate_goes_on_where_its_saved_state_was(schedule):
    one, sgd = rated(schedule=schedule)
    for _ in range(30):
        sgd.step()
        one.after_step()
    one.after_epoch(1.0)
    two, other = rated(schedule=schedule)
    two.load_state_dict(one.state_dict())
    other.load_state_dict(sgd.state_dict())
    for each, mine in ((sgd, one), (other, two)):
        each.step()
        mine.after_step()
    assert sgd.param_groups[0]["lr"] == other.param_groups[0]["lr"] > 0


def rated(**options):
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=options.get("learning_rate", 0.1))
    return Rate(sgd, Optimisation(**options), STEPS), sgd


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_decay_is_kept_off_biases_norms_and_position_codes(name):
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv1d(1, 2, 3), nn.GRU(2, 3), Learned(5, 4))
    decayed, spared = optimizer(model, Optimisation(optimizer=name, weight_decay=0.3)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3), (2, 1, 3), (9, 2), (9, 3)]
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))
    assert any(p.shape == (5, 4) for p in spared["params"]), "position codes"
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)


def test_adamw_decays_by_rate_times_decay():
    """Textbook: decay 0.01 at rate 0.1 takes a weight of 4.0 whose gradient is zero to 3.996."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 4.0)
    adamw = optimizer(model, Optimisation(learning_rate=0.1, weight_decay=0.01))
    model.weight.grad = torch.zeros(1, 1)
    adamw.step()
    assert model.weight.item() == pytest.approx(3.996)


def test_the_moving_average_starts_at_the_first_weights_and_follows_them():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = averaged(model, 0.9)
    average.update_parameters(model)
    assert average.module.weight.item() == 1
    nn.init.constant_(model.weight, 2.0)
    average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(2 / 11 * 1 + 9 / 11 * 2)  # the second of (1 + n) / (10 + n)
    for _ in range(200):
        average.update_parameters(model)
    nn.init.constant_(model.weight, 3.0)
    average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(0.9 * 2 + 0.1 * 3)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0, not 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, not nan"),
        ({"clip_norm": -1.0}, "clip_norm must be above 0"),
        ({"warmup": 1.0}, "warmup must be at least 0 and below 1, not 1.0"),
        ({"ema": 1.0}, "ema must lie between 0 and 1"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"step_at": (0.5, 1.5)}, "step_at must hold shares"),
    ],
)
def test_options_that_make_no_sense_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        Optimisation(**option)
