"""Numbers that the field's textbooks work out by hand, asked of our layers, networks, losses and optimisers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from modelrepo.preprocessing import Numeric
from modelrepo.tasks import Binary, Multiclass, Regression
from tests.training.models.samples import SERIES
from training.data.dataset import Images, Rows
from training.models import CNNConfig, MLPConfig, build
from training.models.cnn.parts import Parts
from training.models.layers import Head, norm
from training.optimisation import Optimisation, optimizer
from training.tasks import Loss, Objective

TEN = Multiclass(labels=tuple("0123456789"))
ONE = Regression(targets=("y",))


def table(columns):
    """Columns that standardising leaves as they are."""
    return Rows(columns=tuple(Numeric(name=f"x{number}", mean=0.0, scale=1.0) for number in range(columns)))


def picture(size, channels):
    return Images(height=size, width=size, mean=(0.0,) * channels, scale=(1.0,) * channels)


def count(module):
    return sum(p.numel() for p in module.parameters())


# How many parameters


def test_lenet_5_has_about_60_thousand_parameters():
    classic = CNNConfig(architecture="lenet5", activation="tanh", norm="none")
    # 5x5 kernels 1 -> 6 and 6 -> 16, then 16 maps of 5x5 to 120, 84 and 10 units, all with biases
    assert count(build(classic, picture(32, 1), TEN)) == 156 + 2416 + 48_120 + 10_164 + 850 == 61_706
    assert count(build(classic, picture(28, 1), TEN)) == 61_706


@pytest.mark.parametrize(("filters", "width", "channels"), [(6, 5, 1), (16, 5, 6), (64, 3, 3), (10, 1, 32)])
def test_a_convolution_of_f_filters_has_f_k_k_c_weights_and_f_biases(filters, width, channels):
    layer = Parts(CNNConfig(norm="none"), 2).convolve(channels, filters, width)
    assert count(layer) == filters * width**2 * channels + filters
    assert count(Parts(CNNConfig(), 2).convolve(channels, filters, width)) == filters * width**2 * channels, "a batch norm follows"
    assert count(Parts(CNNConfig(norm="none"), 1).convolve(channels, filters, width)) == filters * width * channels + filters


@pytest.mark.parametrize("dims", [0, 1, 2])
def test_a_batch_norm_of_f_features_has_2_f_parameters(dims):
    assert count(norm("batch", 7, dims=dims)) == 14


def test_a_dense_layer_of_m_inputs_and_n_units_has_n_times_m_plus_1_parameters():
    model = build(MLPConfig(hidden=(7,), norm="none"), table(5), ONE)
    assert count(model.layers) == 7 * (5 + 1)
    assert count(model.head) == 1 * (7 + 1)


def test_a_3_4_2_perceptron_has_26_parameters():
    assert count(build(MLPConfig(hidden=(4,), norm="none"), table(3), Regression(targets=("a", "b")))) == 26


def test_100_dense_units_on_a_colour_picture_cost_178_times_what_64_kernels_do():
    kind = picture(32, 3)
    dense = build(MLPConfig(hidden=(100,)), kind, TEN).layers[0][0].weight
    kernels = next(p for p in build(CNNConfig(channels=(64,)), kind, TEN).parameters())
    assert (dense.numel(), kernels.numel()) == (307_200, 1_728)


# Loss and gradients


def test_the_softmax_of_2_1_and_a_tenth():
    logits = torch.tensor([[2.0, 1.0, 0.1]])
    np.testing.assert_allclose(logits.softmax(1)[0], [0.659, 0.242, 0.099], atol=5e-4)
    objective = Objective(Multiclass(labels=("a", "b", "c")), Loss(), np.array([0]))
    assert objective(logits, torch.tensor([0])).item() == pytest.approx(0.417, abs=5e-4)


def test_two_weights_in_a_row_by_hand():
    model = build(MLPConfig(hidden=(1,), norm="none"), table(1), ONE)
    w1, w2 = model.layers[0][0], model.head.linear
    with torch.no_grad():
        w1.weight.fill_(0.5)
        w2.weight.fill_(1.5)
    loss = Objective(ONE, Loss(), np.array([[3.0]]))(model(features=torch.tensor([[2.0]])), torch.tensor([[3.0]])) / 2
    loss.backward()
    assert loss.item() == pytest.approx(1.125)
    assert (w1.weight.grad.item(), w2.weight.grad.item()) == (-4.5, -1.5)


def test_the_layer_norm_of_1_2_3_4():
    np.testing.assert_allclose(norm("layer", 4)(torch.tensor([1.0, 2.0, 3.0, 4.0])).detach(), [-1.34, -0.45, 0.45, 1.34], atol=5e-3)


def test_a_decay_of_a_hundredth_at_rate_a_tenth_takes_4_to_3_996():
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 4.0)
    nn.init.constant_(layer.bias, 4.0)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer(layer, Optimisation(optimizer="adamw", learning_rate=0.1, weight_decay=0.01)).step()
    assert layer.weight.item() == pytest.approx(3.996, abs=1e-6)
    assert layer.bias.item() == 4.0, "decay spares biases"


# What a network can learn


def learn_xor(hidden):
    """Train on the four rows of exclusive or until the end; the share of rows that are then right, and the loss."""
    torch.manual_seed(2)  # from most starts, two units get stuck with half of the rows, at a loss of half of ln 2
    kind = Rows(columns=(Numeric(name="a", mean=0.5, scale=0.5), Numeric(name="b", mean=0.5, scale=0.5)))
    model = build(MLPConfig(hidden=hidden, activation="tanh", norm="none"), kind, Binary(labels=("same", "different")))
    rows, targets = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]), torch.tensor([[0.0], [1], [1], [0]])
    objective = Objective(model.task, Loss(), targets.numpy())
    step = optimizer(model, Optimisation(optimizer="adam", learning_rate=0.1, weight_decay=0.0))
    for _ in range(200):
        step.zero_grad()
        loss = objective(model(features=rows), targets).mean()
        loss.backward()
        step.step()
    return ((model(features=rows) > 0) == targets).float().mean().item(), loss.item()


def test_a_linear_model_cannot_learn_exclusive_or():
    right, loss = learn_xor(hidden=())
    assert right <= 0.75
    assert loss == pytest.approx(np.log(2), abs=1e-3), "no better than knowing nothing"


def test_two_hidden_units_learn_exclusive_or():
    right, loss = learn_xor(hidden=(2,))
    assert right == 1.0
    assert loss < 0.05


# Depth


@torch.no_grad()
def deviation_after_50_layers(scale):
    torch.manual_seed(0)
    model = build(MLPConfig(hidden=(512,) * 50, activation="relu", norm="none", init="he"), table(512), ONE).eval()
    for layer in model.layers:
        layer[0].weight *= scale
    return model.layers(torch.randn(64, 512)).std().item()


def test_he_weights_keep_the_signal_through_50_relu_layers():
    assert 0.3 < deviation_after_50_layers(1.0) < 3


def test_weights_half_as_large_lose_the_signal_and_twice_as_large_blow_it_up():
    assert deviation_after_50_layers(0.5) < 1e-12
    assert deviation_after_50_layers(2.0) > 1e12


def test_ten_sigmoid_layers_shrink_the_gradient_by_a_quarter_each_at_least():
    model = build(MLPConfig(hidden=(1,) * 10, activation="sigmoid", norm="none"), table(1), ONE).eval()
    for layer in (*(hidden[0] for hidden in model.layers), model.head.linear):
        nn.init.ones_(layer.weight)
    x = torch.linspace(-3, 3, 31).unsqueeze(1).requires_grad_()
    (gradient,) = torch.autograd.grad(model(features=x).sum(), x)
    assert (gradient > 0).all()
    assert (gradient <= 0.25**10).all()


def test_residual_layers_pass_the_gradient_on_where_plain_ones_lose_it():
    norms = {}
    for residual in (False, True):
        torch.manual_seed(0)
        model = build(MLPConfig(hidden=(16,) * 10, activation="sigmoid", norm="none", residual=residual), table(16), ONE)
        model(features=torch.randn(32, 16)).mean().backward()
        norms[residual] = model.layers[0].layer[0].weight.grad.norm() if residual else model.layers[0][0].weight.grad.norm()
    assert norms[True] > 1000 * norms[False]


# Dropout


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_dropout_keeps_the_expectation(share):
    torch.manual_seed(0)
    head = Head(50, ONE, dropout=share)
    nn.init.ones_(head.linear.weight)
    rows = torch.rand(1, 50).expand(20_000, 50)
    assert head.train()(rows).mean().item() == pytest.approx(head.eval()(rows[:1]).item(), rel=0.005)
    assert head.train()(rows).std() > 1, "units were dropped"


def test_dropout_of_convolutional_networks_touches_training_only():
    model = build(CNNConfig(channels=(4,), dropout=0.5), SERIES, ONE).eval()
    batch = {"sequence": torch.randn(2, 5, 2), "mask": torch.ones(2, 5, dtype=torch.bool)}
    assert torch.equal(model(**batch), model(**batch))
