from __future__ import annotations

import pytest

from export import gates


def test_fp32_has_a_wider_gate_under_tensorrt_than_under_onnx_runtime():
    assert gates.gate_for("fp32", "onnxruntime").atol == 1e-4
    assert gates.gate_for("fp32", "tensorrt-rtx").atol == 1e-3
    assert gates.gate_for("fp16", "tensorrt") == gates.gate_for("fp16", "onnxruntime")


def test_a_setting_changes_one_limit_and_nothing_else():
    changed = gates.parse(["int8.max_loss=0.05", "fp16.atol=1e-2"])
    assert changed["int8"].max_loss == 0.05
    assert (changed["fp16"].atol, changed["fp16"].rtol) == (1e-2, 5e-3)
    assert changed["bf16"] == gates.GATES["bf16"]
    assert gates.GATES["int8"].max_loss == 0.01


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("int8", "'int8' is not NAME.FIELD=NUMBER"),
        ("int4.atol=1", "with NAME of fp32, tensorrt, fp16, bf16, int8"),
        ("int8.loss=1", "FIELD of atol, rtol, min_agreement, max_loss"),
        ("int8.max_loss=much", "'much' is not a number that max_loss can be"),
        ("fp16.atol=-1", "'-1' is not a number that atol can be"),
        ("fp16.min_agreement=99.5", "'99.5' is not a number that min_agreement can be"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        gates.parse([setting])
