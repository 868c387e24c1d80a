from __future__ import annotations

import math

import numpy as np
import torch

from tests.training.models.samples import LABELS, SERIES
from training.models import LSTMConfig, build
from training.models.ssm import S4D, Kernel, convolve


def step_by_step(kernel, x):
    """The state-space model run as a recurrence with complex numbers, for one row: x [T, H] gives y [T, H]."""
    log_step, log_decay, frequency, output = (p.detach().numpy() for p in kernel.parameters())
    a = -np.exp(log_decay) + 1j * frequency  # [H, S]
    c = output[0] + 1j * output[1]
    a_bar = np.exp(np.exp(log_step) * a)  # zero-order hold, B = 1
    b_bar = (a_bar - 1) / a
    state = np.zeros_like(a)
    answers = []
    for now in x:
        state = a_bar * state + b_bar * now[:, None]
        answers.append(2 * (c * state).sum(axis=1).real)
    return np.stack(answers)


def test_the_convolution_equals_the_recurrence_step_by_step():
    torch.manual_seed(0)
    kernel = Kernel(features=3, state=4).double()
    x = torch.randn(2, 50, 3, dtype=torch.float64)
    with torch.no_grad():
        y = convolve(kernel(torch.arange(50)), x).numpy()
    assert np.abs(y).max() > 0.1
    for row in range(2):
        np.testing.assert_allclose(y[row], step_by_step(kernel, x[row].numpy()), rtol=1e-9, atol=1e-9)


def test_convolving_is_causal_and_linear():
    kernel = torch.tensor([[1.0, 0.5, 0.25]])
    x = torch.tensor([[[0.0], [2.0], [4.0]]])
    assert convolve(kernel, x).flatten().tolist() == [0, 2, 5]
    assert convolve(kernel, -3 * x).flatten().tolist() == [0, -6, -15]


def test_what_comes_later_changes_nothing():
    torch.manual_seed(0)
    block = S4D(width=2, features=5, state=3)
    x = torch.randn(4, 9, 2)
    torch.testing.assert_close(block(x)[:, :6], block(x[:, :6]))


def test_a_single_kernel_serves_every_length():
    torch.manual_seed(0)
    kernel = Kernel(features=3, state=4)
    torch.testing.assert_close(kernel(torch.arange(30))[:, :7], kernel(torch.arange(7)))


def test_modes_start_as_s4d_lin_and_steps_spread_over_two_decades():
    torch.manual_seed(0)
    kernel = Kernel(features=500, state=3)
    torch.testing.assert_close(-kernel.log_decay.exp(), torch.full((500, 3), -0.5))
    torch.testing.assert_close(kernel.frequency, torch.tensor([0, math.pi, 2 * math.pi]).expand(500, 3))
    step = kernel.log_step.exp()
    assert 0.001 <= step.min() < 0.0011
    assert 0.09 < step.max() <= 0.1
    assert abs(step.log().mean().item() - math.log(0.01)) < 0.1


def test_modes_decay_however_they_are_trained():
    kernel = Kernel(features=4, state=3)
    with torch.no_grad():
        for parameter in kernel.parameters():
            parameter.normal_(std=3.0)
        assert kernel(torch.tensor([0, 10, 100, 10_000])).isfinite().all()


def test_parameters_are_as_many_as_the_formula_says():
    c, h, s = 2, 7, 5
    model = build(LSTMConfig(cell="ssm", hidden=h, layers=2, state=s), SERIES, LABELS)
    block = h + 4 * h * s + h + 2 * h * (h + 1) + 2 * h  # steps, A and C, skip, mixing, norm
    assert sum(p.numel() for p in model.parameters()) == h * (c + 1) + 2 * block + 3 * (h + 1)


def test_zeros_leave_the_state_space_as_it_is():
    """Without decays and steps there would be nothing to learn from."""
    model = build(LSTMConfig(cell="ssm", init="zeros"), SERIES, LABELS)
    block = model.layers[0].rightwards
    assert not block.mix.weight.any()
    assert block.kernel.output.any()
