from __future__ import annotations

import numpy as np
import pytest
import torch

from modelrepo.tasks import Binary, Multiclass, Regression
from modelrepo.tensors import ShapeRange
from training.data import DataError
from training.data.dataset import Images, Rows, Series, Tokens
from training.models import CNNConfig, LSTMConfig, MLPConfig, TransformerConfig, build
from training.models.layers import Standardize, last_real, sinusoids
from training.models.transformer import Attention

LENGTH = ShapeRange(axis="length", min=1, opt=5, max=9)
CASES = [
    pytest.param(MLPConfig(hidden=(8, 8), dropout=0.1), Rows(mean=(0.0, 1.0), scale=(1.0, 2.0)), id="mlp"),
    pytest.param(MLPConfig(hidden=()), Rows(mean=(0.0,), scale=(1.0,)), id="mlp without hidden layers"),
    pytest.param(CNNConfig(channels=(4, 8), blocks=2), Images(height=8, width=6, mean=(0.5,), scale=(0.2,)), id="cnn"),
    pytest.param(CNNConfig(channels=(4,)), Images(height=9, width=9, mean=(0.0,) * 3, scale=(1.0,) * 3), id="cnn in colour"),
    pytest.param(LSTMConfig(hidden=6, layers=2), Series(length=LENGTH, mean=(0.0, 0.0), scale=(1.0, 1.0)), id="lstm"),
    pytest.param(TransformerConfig(dim=8, heads=2, layers=1), Tokens(length=LENGTH, vocabulary=11), id="transformer"),
]
TASKS = [
    pytest.param(Multiclass(labels=("a", "b", "c")), id="multiclass"),
    pytest.param(Binary(labels=("no", "yes")), id="binary"),
    pytest.param(Regression(targets=("t", "u")), id="regression"),
]


def inputs(model, rows=5, length=7, seed=0):
    """Random inputs of a signature, sequences of several lengths."""
    rng = np.random.default_rng(seed)
    signature = model.signature()
    made = {}
    for spec in signature.inputs:
        shape = spec.shape_at(rows, length if signature.length else None)
        if spec.role == "mask":
            made[spec.name] = np.arange(length) < rng.integers(1, length + 1, rows)[:, None]
        elif spec.bounds:
            made[spec.name] = rng.integers(spec.bounds.min, spec.bounds.max + 1, shape)
        else:
            made[spec.name] = rng.normal(size=shape).astype(np.float32)
    signature.check(made)
    return {name: torch.from_numpy(array) for name, array in made.items()}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("config", "kind"), CASES)
def test_outputs_have_the_shape_the_signature_says(config, kind, task):
    model = build(config, kind, task).eval()
    spec = model.signature().outputs[0]
    output = model(**inputs(model))
    assert tuple(output.shape) == spec.shape_at(5)
    assert spec.name == ("values" if isinstance(task, Regression) else "logits")


@pytest.mark.parametrize(("config", "kind"), CASES)
def test_every_parameter_gets_a_gradient(config, kind):
    torch.manual_seed(0)
    model = build(config, kind, Multiclass(labels=("a", "b"))).train()
    model(**inputs(model)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(("config", "kind"), CASES[-2:])
def test_padding_never_changes_an_answer(config, kind):
    model = build(config, kind, Regression(targets=("t",))).eval()
    batch = inputs(model)
    with torch.no_grad():
        together = model(**batch)
        for row, real in enumerate(batch["mask"].sum(1).tolist()):
            alone = {name: tensor[row : row + 1, :real] for name, tensor in batch.items()}
            torch.testing.assert_close(model(**alone)[0], together[row], atol=1e-6, rtol=1e-5)
        if "sequence" in batch:
            batch["sequence"][~batch["mask"]] = 1e6
        else:
            batch["tokens"][~batch["mask"]] = 10
        torch.testing.assert_close(model(**batch), together)


def test_a_3_4_2_perceptron_has_26_parameters_and_its_norm_8():
    model = build(MLPConfig(hidden=(4,)), Rows(mean=(0.0,) * 3, scale=(1.0,) * 3), Regression(targets=("a", "b")))
    linear = sum(p.numel() for layer in model.layers if isinstance(layer, torch.nn.Linear) for p in layer.parameters())
    assert linear == 26
    assert sum(p.numel() for p in model.parameters()) == 26 + 2 * 4


def test_attention_is_softmax_of_scaled_products():
    torch.manual_seed(0)
    layer = Attention(8, 2).eval()
    x, mask = torch.randn(1, 5, 8), torch.tensor([[True, True, True, False, False]])
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    heads = []
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        scores = q[0, :, part] @ k[0, :, part].T / 2.0  # the square root of 4
        scores[:, 3:] = -torch.inf
        heads.append(scores.softmax(-1) @ v[0, :, part])
    torch.testing.assert_close(layer(x, mask)[0], layer.project(torch.cat(heads, dim=-1)))


def test_position_codes_are_sines_and_cosines():
    codes = sinusoids(7, 6)
    assert codes[0].tolist() == [0, 1, 0, 1, 0, 1]
    torch.testing.assert_close(codes[3, 0], torch.sin(torch.tensor(3.0)))
    torch.testing.assert_close(codes[3, 3], torch.cos(torch.tensor(3.0) / 10_000 ** (2 / 6)))


def test_the_last_real_position_is_read():
    x = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    assert last_real(x, mask).tolist() == [[0, 1], [10, 11]]


def test_standardising_gives_mean_0_and_deviation_1_per_channel():
    image = torch.randn(200, 2, 4, 4) * torch.tensor([3.0, 5.0])[:, None, None] + 7
    kind = Images(height=4, width=4, mean=(7.0, 7.0), scale=(3.0, 5.0))
    done = Standardize(kind, axis=-3)(image)
    torch.testing.assert_close(done.mean((0, 2, 3)), torch.zeros(2), atol=0.06, rtol=0)
    torch.testing.assert_close(done.std((0, 2, 3)), torch.ones(2), atol=0.06, rtol=0)


def test_a_family_given_other_data_says_which_family_reads_it():
    with pytest.raises(DataError, match="the cnn family reads images, this data is rows: use mlp"):
        build(CNNConfig(), Rows(mean=(0.0,), scale=(1.0,)), Regression(targets=("t",)))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="3 does not divide 64"):
        TransformerConfig(heads=3)
