"""What an artifact must keep to before it is published, by precision."""

from __future__ import annotations

from collections.abc import Mapping

from modelrepo.manifest import Precision
from modelrepo.parity import Gate

TENSORRT = "tensorrt"

# fp32: absolute, on logits or in units of a target's scale; TensorRT with TF32 off sums in another order. 16 bits: atol and rtol
# alike, as NVIDIA's migration guide and Polygraphy compare. 8 bits change every answer a little: only the metric counts.
GATES: dict[str, Gate] = {
    "fp32": Gate(atol=1e-4, min_agreement=0.999),
    TENSORRT: Gate(atol=1e-3, min_agreement=0.999),
    "fp16": Gate(atol=5e-3, rtol=5e-3, min_agreement=0.995),
    "bf16": Gate(atol=2e-2, rtol=2e-2, min_agreement=0.995),
    "int8": Gate(max_loss=0.01),
    "fp8": Gate(max_loss=0.01),
}
FIELDS = ("atol", "rtol", "min_agreement", "max_loss")


def gate_for(precision: Precision, backend: str, gates: Mapping[str, Gate] = GATES) -> Gate:
    """The gate of a precision; fp32 has one of its own under TensorRT."""
    return gates[TENSORRT if precision == "fp32" and backend.startswith(TENSORRT) else precision]


def parse(settings: list[str]) -> dict[str, Gate]:
    """The gates with settings such as `int8.max_loss=0.02` or `fp16.atol=1e-2` put over them. Raises ValueError."""
    gates = dict(GATES)
    for setting in settings:
        where, _, value = setting.partition("=")
        name, _, field = where.partition(".")
        if name not in gates or field not in FIELDS:
            raise ValueError(
                f"{setting!r} is not NAME.FIELD=NUMBER with NAME of {', '.join(gates)} and FIELD of {', '.join(FIELDS)}"
            )
        try:
            gates[name] = Gate.model_validate({**gates[name].model_dump(), field: float(value)})
        except ValueError:
            raise ValueError(f"{setting!r}: {value!r} is not a number that {field} can be") from None
    return gates
