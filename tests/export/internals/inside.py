"""What happens inside a model according to PyTorch, and the comparison with what its explain.onnx shows."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from export.internals.make import write
from modelrepo.tasks import Binary, Multiclass, Regression
from runtime.internals_session import InternalsSession
from training.models.cnn.parts import Convolve, NormActivate
from training.models.lstm import LSTM
from training.models.transformer import Transformer

TOLERANCE = 1e-4


@torch.no_grad()
def assert_the_inside_is_equal(model, modules, source, batch, path):
    """Write explain.onnx from the file `source` to `path`, and compare all it shows of a batch with PyTorch. Returns what it is."""
    shown = write(source, model, model.signature(), modules, path)
    if not shown:
        assert not path.exists()
        return {}
    with InternalsSession(path, model.signature(), shown) as session:
        found = session.explain({name: tensor.numpy() for name, tensor in batch.items()}, [internal.name for internal in shown])
    np.testing.assert_allclose(found[model.task.output], model(**batch).numpy(), atol=TOLERANCE, rtol=TOLERANCE)
    internals = {internal.name: internal for internal in shown}
    rows, length = model.signature().check({name: tensor.numpy() for name, tensor in batch.items()})
    for name, internal in internals.items():
        dims = [size or (rows if axis == "instance" else None) for axis, size in zip(internal.axes, internal.shape, strict=True)]
        assert [size for size, dim in zip(found[name].shape, dims, strict=True) if dim is not None] == [d for d in dims if d]
        assert found[name].size <= internal.numbers(rows, length or 0)
    for row in range(rows):
        alone = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        real = int(alone["mask"].sum()) if "mask" in alone else None
        alone = {name: tensor if real is None else tensor[:, :real] for name, tensor in alone.items()}
        of_row = {n: array[row] if internals[n].axes[0] == "instance" else array for n, array in found.items() if n in internals}
        _compare_maps(model, alone, {n: of_row[n] for n in of_row if internals[n].kind == "feature_maps"})
        expected = {**_steps(model, alone, real), **_attention(model, alone), **_recurrences(model, alone)}
        assert {n for n in of_row if internals[n].kind not in ("feature_maps", "kernels")} == set(expected)
        for name, array in expected.items():
            _assert_padded(of_row[name], array, internals[name])
    return internals


def _assert_padded(found, expected, internal):
    """`expected`, and 0 in the padding of every dynamic axis."""
    padded = np.zeros_like(found)
    padded[tuple(slice(size) for size in expected.shape)] = expected
    np.testing.assert_allclose(found, padded, atol=TOLERANCE, rtol=TOLERANCE, err_msg=internal.name)


def _compare_maps(model, alone, found):
    """Every map shown is what one of the model's convolutions passes on, and no two show the same convolution."""
    candidates = _maps(model, alone)
    for name, array in found.items():
        where = next((at for at, maps in enumerate(candidates) if _fits(array, maps)), None)
        assert where is not None, name
        del candidates[where]


def _fits(found, maps):
    if (
        len(found) > len(maps)
        or found.ndim != maps.ndim
        or any(a < b for a, b in zip(found.shape[1:], maps.shape[1:], strict=True))
    ):
        return False
    padded = np.zeros_like(found)
    padded[(slice(None), *(slice(size) for size in maps.shape[1:]))] = maps[: len(found)]
    return np.allclose(found, padded, atol=TOLERANCE, rtol=TOLERANCE)


def _maps(model, alone):
    """Of each convolution, after the NormActivate right behind it."""
    after = {}
    for sequence in model.modules():
        if isinstance(sequence, nn.Sequential):
            for module, following in zip(sequence, [*sequence[1:], None], strict=True):
                if isinstance(module, Convolve):
                    after[module] = following if isinstance(following, NormActivate) else module
    found = []
    hooks = [module.register_forward_hook(lambda _m, _i, out: found.append(out.values[0].numpy())) for module in after.values()]
    if isinstance(model, Transformer) and hasattr(model.embed, "project"):
        hooks.append(model.embed.project.register_forward_hook(lambda _m, _i, out: found.append(out[0].numpy())))
    model(**alone)
    for hook in hooks:
        hook.remove()
    return found


def _attention(model, alone):
    if not isinstance(model, Transformer):
        return {}
    return {f"attention{n}": weights[0].numpy() for n, weights in enumerate(model.attention_weights(**alone), 1)}


def _steps(model, alone, real):
    """The model's answer to the sequence up to each step, for models that read left to right."""
    reads = isinstance(model, LSTM) and not model.config.bidirectional
    if real is None or not (reads or (isinstance(model, Transformer) and model.config.causal)):
        return {}
    answers = torch.cat([model(**{name: tensor[:, : step + 1] for name, tensor in alone.items()}) for step in range(real)])
    task = model.task
    if not isinstance(task, Regression):
        answers = answers / task.temperature
        answers = answers.softmax(1) if isinstance(task, Multiclass) else answers.sigmoid()
        if isinstance(task, Binary):
            answers = torch.cat([1 - answers, answers], dim=1)
    return {"outputs_by_step": answers.numpy()}


def _recurrences(model, alone):
    """Gates and states, one step after the other, by the equations in PyTorch's documentation."""
    if not isinstance(model, LSTM):
        return {}
    value = next(tensor for name, tensor in alone.items() if name != "mask")
    x, found = model.embed(value)[0], {}  # [T, D]
    for number, layer in enumerate(model.layers, 1):
        both = layer.leftwards is not None
        answers = []
        for direction, reader in (("rightwards", layer.rightwards), ("leftwards", layer.leftwards)):
            if reader is None:
                continue
            turned = x if direction == "rightwards" else x.flip(0)
            inside = _read(reader, turned)
            inside = inside if direction == "rightwards" else {name: value.flip(0) for name, value in inside.items()}
            prefix = f"{model.config.cell}{number}." + (f"{direction}." if both else "")
            found |= {prefix + name: value.numpy() for name, value in inside.items()}
            answers.append(inside.get("hidden", inside.get("output")))
        x = torch.cat(answers, dim=1)
    return found


def _read(reader, x):
    cell = getattr(reader, "cell", None)
    if cell is None:
        return {"output": reader(x[None])[0]}
    hidden = memory = torch.zeros(cell.hidden_size)
    kept = {"hidden": [], "cell": [], "gates": []}
    for step in x:
        a = cell.weight_ih_l0 @ step + cell.bias_ih_l0
        b = cell.weight_hh_l0 @ hidden + cell.bias_hh_l0
        if isinstance(cell, nn.LSTM):
            i, f, g, o = (a + b).chunk(4)
            i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
            memory = f * memory + i * g
            hidden = o * memory.tanh()
            kept["gates"].append(torch.stack([i, f, g, o]))
            kept["cell"].append(memory)
        elif isinstance(cell, nn.GRU):
            (ar, az, an), (br, bz, bn) = a.chunk(3), b.chunk(3)
            r, z = (ar + br).sigmoid(), (az + bz).sigmoid()
            n = (an + r * bn).tanh()
            hidden = (1 - z) * n + z * hidden
            kept["gates"].append(torch.stack([z, r, n]))
        else:
            hidden = (a + b).tanh()
        kept["hidden"].append(hidden)
    return {name: torch.stack(values) for name, values in kept.items() if values}
