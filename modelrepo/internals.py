"""What a version shows of its inside, beside its answers: the outputs that its `explain.onnx` has more than the graph it serves."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from modelrepo.tensors import Strict

Kind = Literal["feature_maps", "kernels", "gates", "states", "attention", "outputs_by_step"]
Axis = Literal[
    "instance", "channel", "height", "width", "step", "filter", "gate", "unit", "head", "query", "key", "label", "target"
]


class Internal(Strict):
    """One float32 tensor. Its shape has None where the size depends on the request: the instances, and the steps of sequences.

    - feature_maps: what a convolution passes on, after the norm and activation that follow it
    - kernels: the weights of a convolution, with a batch norm that follows it multiplied in; they are the same in every answer
    - gates: of an LSTM or GRU at each step, after their sigmoid or tanh
    - states: what a recurrent layer holds after each step
    - attention: where each position looks, a share for every position; 0 in the padding
    - outputs_by_step: probabilities or values that the model gives for the sequence up to each step

    `layer` counts convolutions, recurrent layers or blocks from 0; it is None for what belongs to no one layer. `labels` name the
    places along an axis. Of a sequence shorter than others beside it, the steps that it does not have hold 0.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.]*$")]
    kind: Kind
    layer: NonNegativeInt | None
    axes: Annotated[tuple[Axis, ...], Field(min_length=1)]
    shape: tuple[PositiveInt | None, ...]
    labels: dict[Axis, tuple[str, ...]] = Field(default_factory=dict)
    description: str = ""

    @model_validator(mode="after")
    def _each_axis(self) -> Self:
        sizes = dict(zip(self.axes, self.shape, strict=False))
        if len(sizes) != len(self.axes) or len(self.shape) != len(self.axes):
            raise ValueError(f"{self.name} needs a size for each of its axes, which must differ: {self.axes}, {self.shape}")
        for axis, names in self.labels.items():
            if sizes.get(axis) != len(names):
                raise ValueError(f"{self.name} has {len(names)} labels for its axis {axis!r} of size {sizes.get(axis)}")
        return self

    def numbers(self, instances: int, length: int) -> int:
        """At most how many numbers it has for so many instances of at most `length` steps (0 without sequences)."""
        count = 1
        for axis, size in zip(self.axes, self.shape, strict=True):
            count *= size or (instances if axis == "instance" else length + 1)  # a Transformer may put a vector in front
        return count
