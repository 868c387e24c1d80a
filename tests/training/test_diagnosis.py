from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modelrepo.tasks import Binary, Multiclass, Multilabel, Regression
from training.diagnosis import Monitor, chance, examine, gradients

OPTIONS = {"init": "zeros", "norm": "none", "activation": "sigmoid", "dropout": 0.0, "residual": False}
LABELS = Multiclass(labels=("a", "b", "c"))


class Net(nn.Module):
    """Layers behind one named input, as a family has it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, features):
        return self.layers(features)


def cross_entropy(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


def mlp(depth: int, activation: type[nn.Module], width: int = 32, gain: float | None = None) -> Net:
    """`depth` hidden layers; `gain` 1 is He's initialisation, 2 twice its scale, None PyTorch's own."""
    layers: list[nn.Module] = []
    for features in (8, *(width,) * (depth - 1)):
        layers += [nn.Linear(features, width), activation()]
    net = Net(*layers, nn.Linear(width, 3))
    if gain is not None:
        for layer in net.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=gain * math.sqrt(2 / layer.in_features))
                nn.init.zeros_(layer.bias)
    return net


@pytest.fixture
def batch():
    """64 rows that three classes can be told apart by, and their classes."""
    torch.manual_seed(0)
    features = torch.randn(64, 8)
    return {"features": features}, features[:, :3].argmax(1)


@pytest.fixture
def monitor():
    return Monitor(cross_entropy, math.log(3), OPTIONS)


def found(findings) -> dict[str, str]:
    return {finding.what: finding.where for finding in findings}


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: mlp(2, nn.ReLU), id="two layers"),
        pytest.param(lambda: mlp(5, nn.Sigmoid), id="five sigmoid layers"),
        pytest.param(lambda: mlp(50, nn.ReLU, gain=1), id="fifty ReLU layers with He's initialisation"),
        pytest.param(lambda: Net(nn.Linear(8, 3)), id="linear"),
    ],
)
def test_a_healthy_network_sets_off_no_alarm(make, batch, monitor):
    inputs, targets = batch
    net = make()
    rows = [{"epoch": n, "train/loss": 1 / n, "validation/loss": 1.1 / n} for n in range(1, 6)]
    assert monitor.after_epoch(net, inputs, targets, rows) == []


def test_training_a_healthy_network_to_the_end_sets_off_no_alarm(batch, monitor):
    inputs, targets = batch
    net, rows = mlp(2, nn.ReLU), []
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for epoch in range(1, 61):
        loss = cross_entropy(net(**inputs), targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rows.append({"epoch": epoch, "train/loss": float(loss.detach()), "validation/loss": float(loss.detach())})
        assert monitor.after_epoch(net, inputs, targets, rows) == []
    assert rows[-1]["train/loss"] < 0.05  # it did learn


def test_thirty_sigmoid_layers_let_the_gradient_vanish(batch, monitor):
    torch.manual_seed(0)
    [finding] = monitor.after_epoch(mlp(30, nn.Sigmoid), *batch, [])
    assert finding.what == "vanishing gradients"
    assert "the gradient of layers.0 is " in finding.where
    assert "of that of layers.60" in finding.where
    assert "of 31 layers get next to none" in finding.where
    assert finding.remedies[0] == "--model.init auto"


def test_fifty_layers_at_twice_the_scale_let_it_explode(batch, monitor):
    torch.manual_seed(0)
    [finding] = monitor.after_epoch(mlp(50, nn.ReLU, gain=2), *batch, [])
    assert finding.what == "exploding gradients"
    assert "times its weights" in finding.where
    assert finding.remedies[0] == "--learning-rate ten times lower"


def test_weights_that_start_at_zero_let_no_gradient_through(batch, monitor):
    net = mlp(3, nn.Tanh)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    assert "the gradient of layers.0 is 0 of that of layers.6" in found(monitor.after_epoch(net, *batch, []))["vanishing gradients"]


def test_relus_that_no_row_activates_are_counted_as_dead(batch, monitor):
    torch.manual_seed(0)
    net = mlp(2, nn.ReLU)
    with torch.no_grad():
        net.layers[2].bias[:26] = -100
        net.layers[2].bias[26:] = 100
    findings = found(monitor.after_epoch(net, *batch, []))
    assert findings == {"dead ReLUs": "layers.3: 26 of 32 units are 0 for every row of a batch"}


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        pytest.param(Net(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten()), (8, 1, 5, 5), id="2-D convolution"),
        pytest.param(Net(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten()), (8, 2, 9), id="1-D convolution"),
        pytest.param(Net(nn.Linear(2, 4), nn.ReLU(), nn.Flatten()), (8, 9, 2), id="every step of a sequence"),
    ],
)
def test_the_units_of_a_convolution_are_its_channels_and_of_a_step_its_features(net, shape):
    torch.manual_seed(0)
    last = net.layers[1] if isinstance(net.layers[1], nn.BatchNorm1d) else net.layers[0]
    with torch.no_grad():
        last.bias.copy_(torch.tensor([-100, -100, -100, 100]))
    examined = examine(net, {"features": torch.rand(shape)}, torch.zeros(8, dtype=torch.int64), cross_entropy)
    assert list(examined.dead.values()) == [(3, 4)]


def test_a_batch_too_small_to_tell_calls_no_unit_dead(batch, monitor):
    inputs, targets = batch
    net = mlp(2, nn.ReLU)
    with torch.no_grad():
        net.layers[2].bias.fill_(-1)
    examined = examine(net, {"features": inputs["features"][:8]}, targets[:8], cross_entropy)
    assert examined.dead == {}


def test_a_huge_learning_rate_is_traced_to_the_first_layer_it_broke(batch, monitor):
    inputs, targets = batch
    net = mlp(3, nn.ReLU)
    optimizer = torch.optim.SGD(net.parameters(), 1e30)
    for _ in range(5):
        loss = cross_entropy(net(**inputs), targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not math.isfinite(float(loss.detach()))
    finding = monitor.not_finite(net, inputs, targets)
    assert finding.what == "the loss is not finite"
    assert finding.where == "the weights of layers.0"
    assert str(finding).startswith("the loss is not finite (the weights of layers.0); try, in this order: --learning-rate ten")


def test_an_output_that_overflows_is_named_with_its_layer(batch, monitor):
    net = mlp(3, nn.ReLU)
    with torch.no_grad():
        net.layers[0].weight.fill_(1e30)
        net.layers[2].weight.fill_(1e30)
    assert monitor.not_finite(net, *batch).where == "the output of layers.2"


def test_a_gradient_that_overflows_is_named_with_its_layer(batch, monitor):
    class Root(nn.Module):
        """Finite at zero, where its slope is not."""

        def forward(self, x):
            return (x - x.detach()).sqrt()

    net = Net(nn.Linear(8, 3), Root())
    assert monitor.not_finite(net, *batch).where == "the gradient of layers.0"


def test_an_infinite_input_is_not_blamed_on_the_network(batch, monitor):
    inputs, targets = batch
    inputs["features"][5, 2] = math.inf
    finding = monitor.not_finite(mlp(2, nn.ReLU), inputs, targets)
    assert (finding.what, finding.where) == ("the input is not finite", "features, row 5 of the batch, holds an infinite value")


@pytest.mark.parametrize(
    ("losses", "alarm"),
    [
        pytest.param([1.1, 1.1, 1.0986], True, id="nothing learnt in three epochs"),
        pytest.param([5.0, 7.0, 6.0], True, id="worse than nothing"),
        pytest.param([1.1, 1.1], False, id="early still"),
        pytest.param([1.1, 1.1, 1.05], False, id="something learnt"),
    ],
)
def test_a_loss_at_chance_is_told(losses, alarm, batch, monitor):
    rows = [{"epoch": n, "train/loss": loss} for n, loss in enumerate(losses, start=1)]
    findings = found(monitor.after_epoch(mlp(2, nn.ReLU), *batch, rows))
    assert ("the loss is at chance" in findings) == alarm
    if alarm:
        assert findings["the loss is at chance"].endswith("the best answer that is always the same has 1.099")


@pytest.mark.parametrize(
    ("training", "validation", "alarm"),
    [
        pytest.param([0.9, 0.5, 0.3, 0.2, 0.1, 0.1, 0.1], [0.9, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2], True, id="learnt by heart"),
        pytest.param([0.9, 0.5, 0.3, 0.2, 0.1, 0.1, 0.1], [0.9, 0.7, 0.71, 0.72, 0.73, 0.74, 0.75], False, id="flat"),
        pytest.param([0.9, 0.5, 0.3, 0.2, 0.6, 0.6, 0.6], [0.9, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2], False, id="both rise"),
        pytest.param([0.9, 0.5, 0.3, 0.2, 0.1], [0.2, 0.3, 0.4, 0.3, 0.4], False, id="a few bad epochs"),
        pytest.param([0.9, 0.5, 0.3, 0.2], [math.nan] * 4, False, id="no number to compare"),
    ],
)
def test_overfitting_is_told_from_losses_that_part(training, validation, alarm, batch, monitor):
    rows = [
        {"epoch": n, "train/loss": one, "validation/loss": two}
        for n, (one, two) in enumerate(zip(training, validation, strict=True), start=1)
    ]
    findings = found(monitor.after_epoch(mlp(2, nn.ReLU), *batch, rows))
    assert ("overfitting" in findings) == alarm


def test_chance_may_last_as_long_as_the_learning_rate_rises(batch):
    monitor = Monitor(cross_entropy, math.log(3), OPTIONS, warmup=2)
    rows = [{"epoch": n, "train/loss": math.log(3)} for n in range(1, 6)]
    assert "the loss is at chance" not in found(monitor.after_epoch(mlp(2, nn.ReLU), *batch, rows[:4]))
    assert "the loss is at chance" in found(monitor.after_epoch(mlp(2, nn.ReLU), *batch, rows))


def test_a_finding_is_told_once(batch, monitor):
    net = mlp(30, nn.Sigmoid)
    assert len(monitor.after_epoch(net, *batch, [])) == 1
    assert monitor.after_epoch(net, *batch, []) == []


def test_no_remedy_names_an_option_the_model_does_not_have_or_what_is_set_already(batch):
    monitor = Monitor(cross_entropy, math.log(3), {"activation": "sigmoid", "init": "auto", "residual": True})
    [finding] = monitor.after_epoch(mlp(30, nn.Sigmoid), *batch, [])
    assert finding.remedies == ("--model.activation relu", "fewer layers")


def test_looking_changes_nothing(batch):
    inputs, targets = batch
    net = Net(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)).train()
    net.layers[3].eval()
    cross_entropy(net(**inputs), targets).mean().backward()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    held, random = gradients(net), torch.get_rng_state()
    with torch.no_grad():
        examine(net, inputs, targets, cross_entropy)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert gradients(net) == held
    assert torch.equal(torch.get_rng_state(), random)
    assert [layer.training for layer in net.layers] == [True, True, True, False, True]
    assert not any(module._forward_hooks for module in net.modules())


def test_gradients_are_norms_by_layer(batch):
    inputs, targets = batch
    net = Net(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    net.scale = nn.Parameter(torch.ones(1))  # unused, so that it has no gradient
    assert gradients(net) == {}
    cross_entropy(net(**inputs), targets).mean().backward()
    parts = [torch.cat([p.grad.flatten() for p in net.layers[at].parameters()]).norm() for at in (0, 2)]
    assert gradients(net) == pytest.approx({"layers.0": float(parts[0]), "layers.2": float(parts[1])})


@pytest.mark.parametrize(
    ("task", "targets", "objective", "expected"),
    [
        pytest.param(
            LABELS,
            np.array([0] * 6 + [1] * 3 + [2]),
            cross_entropy,
            -(0.6 * math.log(0.6) + 0.3 * math.log(0.3) + 0.1 * math.log(0.1)),
            id="entropy of the labels",
        ),
        pytest.param(
            Multiclass(labels=("a", "b", "never")), np.array([0, 1] * 5), cross_entropy, math.log(2), id="a label that never occurs"
        ),
        pytest.param(
            Binary(labels=("n", "y")),
            np.array([[1]] * 3 + [[0]], np.float32),
            lambda y, t: F.binary_cross_entropy_with_logits(y, t, reduction="none").mean(1),
            -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)),
            id="binary",
        ),
        pytest.param(
            Multilabel(labels=("a", "b")),
            np.array([[1, 1], [1, 0], [0, 1], [0, 0]], np.float32),
            lambda y, t: F.binary_cross_entropy_with_logits(y, t, reduction="none").mean(1),
            math.log(2),
            id="multilabel",
        ),
        pytest.param(
            Regression(targets=("t",)),
            np.array([[1e4], [3e4]], np.float32),
            lambda y, t: (y - t).square().mean(1),
            1e8,
            id="variance of targets of any size",
        ),
        pytest.param(
            Regression(targets=("t",)),
            np.array([[0.0], [0.0], [0.0], [9.0]], np.float32),
            lambda y, t: (y - t).abs().mean(1),
            2.25,
            id="another loss",
        ),
        pytest.param(
            Regression(targets=("t",)), np.zeros((3, 1), np.float32), lambda y, t: (y - t).square().mean(1), 0.0, id="constant"
        ),
    ],
)
def test_chance_is_the_loss_of_the_best_constant_answer(task, targets, objective, expected):
    assert chance(task, targets, objective) == pytest.approx(expected, rel=0.02, abs=1e-6)
