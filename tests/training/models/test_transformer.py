from __future__ import annotations

from typing import get_args

import numpy as np
import onnxruntime
import pytest
import torch

from export.to_onnx import to_onnx
from modelrepo.tensors import ShapeRange
from tests.training.models.samples import (
    COLOUR,
    GREY,
    LABELS,
    NUMBERS,
    SERIES,
    TABLE,
    TASKS,
    TOKENS,
    assert_export_is_equal,
    inputs,
    padding_changes,
    without_gradient,
)
from training.data.dataset import DataError, Images, Series
from training.models import TransformerConfig, build
from training.models.layers import Activation
from training.models.positions import sinusoids
from training.models.transformer import Norm, Pooling, Positions

PICTURES = Images(height=8, width=6, mean=(0.5, 0.0, 1.0), scale=(2.0, 1.0, 0.5))
KINDS = [pytest.param(TOKENS, id="tokens"), pytest.param(SERIES, id="numbers"), pytest.param(PICTURES, id="pictures")]
WAYS = [  # of pooling, with what may be pooled under causal attention
    pytest.param(pooling, causal, id=f"{pooling}{', causal' if causal else ''}")
    for pooling in get_args(Pooling)
    for causal in (False, True)
    if not (causal and pooling == "cls")
]


def tiny(**options):
    return TransformerConfig(**{"dim": 8, "heads": 2, "layers": 2, "feedforward": 12, "patch": 2, **options})


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.type)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_have_the_shape_the_signature_says(kind, task):
    model = build(tiny(), kind, task).eval()
    assert tuple(model(**inputs(model)).shape) == model.signature().outputs[0].shape_at(5)


@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
@pytest.mark.parametrize("norm", get_args(Norm))
@pytest.mark.parametrize(("pooling", "causal"), WAYS)
@pytest.mark.parametrize("positions", get_args(Positions))
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient_and_padding_changes_nothing(kind, positions, pooling, causal, norm, norm_first):
    torch.manual_seed(0)
    config = tiny(positions=positions, pooling=pooling, causal=causal, norm=norm, norm_first=norm_first)
    model = build(config, kind, LABELS)
    assert without_gradient(model) == []
    if kind is not PICTURES:
        assert padding_changes(model) < 1e-5


@pytest.mark.parametrize("activation", get_args(Activation))
def test_gradients_pass_every_activation(activation):
    torch.manual_seed(0)
    assert without_gradient(build(tiny(activation=activation), TOKENS, LABELS)) == []


FEW_TEXTS = tiny(embedding_std=0.01, positions="rotary", norm="none", pooling="mean", dropout=0.5)


def test_gradients_pass_with_what_suits_few_texts():
    torch.manual_seed(0)
    model = build(FEW_TEXTS, TOKENS, LABELS)
    assert without_gradient(model) == []
    assert padding_changes(model) < 1e-5


@pytest.mark.slow
def test_an_export_answers_as_the_original_with_what_suits_few_texts(tmp_path):
    torch.manual_seed(0)
    assert_export_is_equal(build(FEW_TEXTS, TOKENS, LABELS), tmp_path)


def test_embeddings_start_as_wide_as_asked_and_otherwise_fill_the_stream():
    torch.manual_seed(0)
    wide = TOKENS.model_copy(update={"vocabulary": 5000})
    tokens = torch.arange(5000).unsqueeze(0)
    for std, expected in ((None, 1.0), (0.1, 0.1)):
        stream = build(tiny(embedding_std=std, dim=16), wide, LABELS).embed(tokens)
        assert stream.std().item() == pytest.approx(expected, rel=0.03)


def test_not_even_what_is_no_number_leaks_out_of_the_padding():
    model = build(tiny(), SERIES, LABELS).eval()
    batch = inputs(model)
    clean = model(**batch)
    batch["sequence"][~batch["mask"]] = torch.nan
    torch.testing.assert_close(model(**batch), clean)


def test_an_encoder_block_has_as_many_parameters_as_the_formula_says():
    d, f = 8, 12
    linear = 4 * (d * d + d) + (d * f + f) + (f * d + d)
    for norm, per_norm in (("layer", 2 * d), ("rms", d)):
        model = build(tiny(norm=norm), TOKENS, LABELS)
        assert [sum(p.numel() for p in block.parameters()) for block in model.blocks] == [linear + 2 * per_norm] * 2


@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
def test_a_block_normalises_the_branch_or_the_sum(norm_first):
    torch.manual_seed(0)
    block = build(tiny(norm_first=norm_first), TOKENS, LABELS).blocks[0].eval()
    x = torch.randn(2, 5, 8)
    if norm_first:
        middle = x + block.attention(block.norm1(x))
        expected = middle + block.feedforward(block.norm2(middle))
    else:
        middle = block.norm1(x + block.attention(x))
        expected = block.norm2(middle + block.feedforward(middle))
    torch.testing.assert_close(block(x, None), expected)


def test_tokens_enter_as_their_vectors_plus_position_codes():
    torch.manual_seed(0)
    model = build(tiny(), TOKENS, LABELS).eval()
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model(tokens=torch.tensor([[3, 3, 7]]), mask=torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(seen[0][0], model.embed(torch.tensor([3, 3, 7])) + sinusoids(3, 8))


def test_the_order_of_tokens_matters_through_positions_alone():
    torch.manual_seed(0)
    forth, back = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[4, 3, 2, 1]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    for positions in get_args(Positions):
        model = build(tiny(positions=positions, pooling="mean"), TOKENS, LABELS).eval()
        assert (model(tokens=forth, mask=mask) - model(tokens=back, mask=mask)).abs().max() > 1e-4, positions
    blind = build(tiny(positions="learned", pooling="mean"), TOKENS, LABELS).eval()
    torch.nn.init.zeros_(blind.positions.codes)
    torch.testing.assert_close(blind(tokens=forth, mask=mask), blind(tokens=back, mask=mask))


def test_a_picture_is_cut_into_patches_row_by_row():
    torch.manual_seed(0)
    model = build(tiny(), PICTURES, LABELS)
    image = torch.randn(2, 3, 8, 6)
    standard = (image - torch.tensor(PICTURES.mean)[:, None, None]) / torch.tensor(PICTURES.scale)[:, None, None]
    patches = model.embed(image)
    assert patches.shape == (2, 4 * 3, 8)
    weight, bias = model.embed.project.weight.flatten(1), model.embed.project.bias
    second_row_third = standard[:, :, 2:4, 4:6].flatten(1)
    torch.testing.assert_close(patches[:, 3 + 2], second_row_third @ weight.T + bias)


def test_pictures_have_no_mask():
    assert [spec.name for spec in build(tiny(), PICTURES, LABELS).signature().inputs] == ["image"]


def test_pictures_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(DataError, match=r"pictures of 9x7 pixels do not divide into patches of 2x2: set --model.patch"):
        build(tiny(), COLOUR, LABELS)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_pictures_are_pooled_over_all_their_patches(pooling):
    torch.manual_seed(0)
    model = build(tiny(pooling=pooling), PICTURES, LABELS).eval()
    streams = []
    model.norm.register_forward_hook(lambda _, __, output: streams.append(output))
    answer = model(**inputs(model))
    pooled = streams[0][:, -1] if pooling == "last" else streams[0].mean(dim=1)
    torch.testing.assert_close(answer, model.head(pooled))


@pytest.mark.parametrize(("pooling", "causal"), WAYS)
@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_weights_are_those_of_the_answer(kind, norm_first, pooling, causal):
    torch.manual_seed(0)
    model = build(tiny(pooling=pooling, causal=causal, norm_first=norm_first), kind, LABELS).eval()
    batch = inputs(model)
    attended = []
    for block in model.blocks:
        block.attention.register_forward_hook(lambda layer, arguments, output: attended.append((layer, arguments[0], output)))
    model(**batch)
    maps = model.attention_weights(**batch)
    length = (12 if kind is PICTURES else 7) + (pooling == "cls")
    assert [tuple(m.shape) for m in maps] == [(5, 2, length, length)] * 2
    for weights, (layer, x, output) in zip(maps, attended, strict=False):
        values = layer.qkv(x)[..., 16:].view(5, length, 2, 4).transpose(1, 2)
        by_hand = layer.project((weights @ values).transpose(1, 2).flatten(2))
        real = torch.ones(5, length, dtype=torch.bool)
        if kind is not PICTURES:
            real[:, -7:] = batch["mask"]
        torch.testing.assert_close(output[real], by_hand[real])
        onto_padding = weights.masked_fill(real[:, None, None, :], 0).sum(dim=3).transpose(1, 2)  # [N, T, heads]
        assert not onto_padding[real].any()
    if causal:
        assert not maps[0].triu(diagonal=1).any()


def test_dropout_acts_on_the_embedding_the_branches_and_before_the_answer_while_training_only():
    torch.manual_seed(0)
    model = build(tiny(dropout=0.5), TOKENS, LABELS)
    batch = inputs(model)
    assert torch.equal(model.eval()(**batch), model(**batch))
    model.train()
    dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert len(dropouts) == 4, "embedding, two blocks, head"
    for alone in dropouts:
        for dropout in dropouts:
            dropout.p = 0.5 if dropout is alone else 0.0
        assert not torch.equal(model(**batch), model(**batch))


def test_auto_draws_weights_as_xavier():
    layer = build(TransformerConfig(), TOKENS, LABELS).blocks[0].feedforward[0]
    assert 0.9 < layer.weight.abs().max() / (6 / (64 + 128)) ** 0.5 <= 1
    assert not layer.bias.any()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"heads": 3}, "3 does not divide 64"),
        ({"norm": "batch"}, "norm must be one of layer, rms, none, not 'batch'"),
        ({"positions": "none"}, "positions must be one of sinusoidal, learned, rotary, not 'none'"),
        ({"pooling": "max"}, "pooling must be one of last, mean, cls, not 'max'"),
        ({"activation": "swish"}, "activation must be one of"),
        ({"init": "ones"}, "init must be one of"),
        ({"causal": True, "pooling": "cls"}, "sees nothing: use pooling last or mean"),
        ({"dim": 12, "heads": 4, "positions": "rotary"}, "rotary positions need an even number of features per head"),
        ({"dropout": -0.5}, "dropout must be at least 0 and below 1, not -0.5"),
        ({"embedding_std": -1.0}, "embedding_std must be above 0, not -1.0"),
        ({"heads": 0}, "heads must be at least 1, not 0"),
        ({"patch": 0}, "patch must be at least 1, not 0"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(fault, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**fault)


def test_tables_are_refused_with_the_families_that_read_them():
    with pytest.raises(DataError, match="the transformer family reads tokens and series and images, this data is rows: use mlp"):
        build(tiny(), TABLE, LABELS)


# Exports take seconds each; the quick ones stand for their kind, the others run with `-m slow`.
EXPORTS = [
    pytest.param(tiny(), TOKENS, id="tokens", marks=pytest.mark.slow),
    pytest.param(tiny(positions="rotary", causal=True, pooling="mean", norm="rms", norm_first=False), SERIES, id="rotary, causal"),
    pytest.param(tiny(positions="learned", pooling="cls"), GREY, id="pictures"),
    *(
        pytest.param(tiny(layers=1, positions=positions, **ways), kind, marks=pytest.mark.slow)
        for positions in get_args(Positions)
        for ways in (
            {"pooling": "cls"},
            {"pooling": "last", "causal": True, "norm": "rms"},
            {"pooling": "mean", "norm_first": False},
        )
        for kind in (TOKENS, SERIES, PICTURES)
    ),
]


@pytest.mark.parametrize(("config", "kind"), EXPORTS)
def test_an_export_answers_as_the_original(config, kind, tmp_path):
    torch.manual_seed(0)
    assert_export_is_equal(build(config, kind, NUMBERS), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("activation", get_args(Activation))
def test_an_export_answers_as_the_original_with_every_activation(activation, tmp_path):
    torch.manual_seed(0)
    assert_export_is_equal(build(tiny(layers=1, activation=activation), TOKENS, NUMBERS), tmp_path)


@pytest.mark.parametrize(
    ("positions", "pooling"),
    [
        pytest.param("sinusoidal", "cls", marks=pytest.mark.slow),
        pytest.param("rotary", "mean", marks=pytest.mark.slow),
        pytest.param("learned", "last", marks=pytest.mark.slow),
    ],
)
def test_sequences_of_one_length_keep_a_dynamic_axis_in_the_export(positions, pooling, tmp_path):
    """Such as the rows of a picture: the exporter must not take the only length there is for a constant."""
    kind = Series(length=ShapeRange(axis="length", min=8, opt=8, max=8), mean=(0.0, 0.0), scale=(1.0, 1.0))
    model = build(tiny(layers=1, positions=positions, pooling=pooling), kind, LABELS).eval()
    example = {name: tensor.numpy() for name, tensor in inputs(model, rows=3, length=8).items()}
    to_onnx(model, model.signature(), example, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    batch = inputs(model, rows=5, length=8, seed=1)
    answer = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})[0]
    np.testing.assert_allclose(answer, model(**batch).detach().numpy(), atol=1e-4)
