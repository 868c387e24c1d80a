"""ONNX to a TensorRT engine, with whichever flavour is at hand.

`tensorrt` builds for the GPU it runs on and needs one; `tensorrt-rtx` builds without any for the capabilities named here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.errors import ConversionError
from modelrepo.manifest import ProfileShape, TensorRTArtifact
from modelrepo.repository import digest
from modelrepo.tensors import ShapeRange, Signature, TensorSpec
from runtime import cuda, tensorrt_flavour
from runtime.tensorrt_flavour import FLAVOURS, Flavour

RTX_CAPABILITIES = ("8.6", "8.9", "12.0")  # RTX 30, RTX 40 and L4, RTX 50


def choose(wanted: str) -> tuple[Flavour | None, str]:
    """The flavour to build with; None where there is none, with the reason in words.

    `wanted` is auto, off, tensorrt or tensorrt-rtx. Raises ConversionError where a flavour asked for by name cannot build here.
    """
    if wanted == "off":
        return None, "switched off"
    reasons = []
    for flavour in FLAVOURS:
        if wanted not in ("auto", flavour):
            continue
        if tensorrt_flavour.load(flavour) is None:
            reasons.append(f"{flavour} is not installed (pip install 'quartet[{flavour}]')")
        elif flavour == "tensorrt" and not cuda.available():
            reasons.append("tensorrt builds only on a machine with an NVIDIA GPU")
        else:
            return flavour, ""
    reason = "; ".join(reasons)
    if wanted != "auto":
        raise ConversionError(f"no engine can be built: {reason}")
    return None, reason


def to_tensorrt(onnx_file: Path, signature: Signature, flavour: Flavour, path: Path) -> TensorRTArtifact:
    """Build an engine for every shape of the signature, write it to `path`, and describe it, as not proven.

    Precision is the graph's own, fp32: networks are strongly typed, and TF32 is off. Raises ConversionError, with the parser's
    errors and the nodes they name, where TensorRT cannot take the graph.
    """
    trt = tensorrt_flavour.load(flavour)
    try:
        builder = trt.Builder(tensorrt_flavour.logger(flavour))
    except TypeError as error:  # what pybind makes of a null pointer
        raise ConversionError(f"{flavour} {trt.__version__} cannot start here ({error}); its log says why") from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, tensorrt_flavour.logger(flavour))
    if not parser.parse_from_file(str(onnx_file)):
        faults = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
        raise ConversionError(f"{flavour} {trt.__version__} cannot parse {onnx_file.name}: " + "; ".join(faults))

    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    shapes = {spec.name: profile_shape(spec) for spec in signature.inputs}
    for name, shape in shapes.items():
        profile.set_shape(name, shape.min, shape.opt, shape.max)
    config.add_optimization_profile(profile)
    capabilities = _target(trt, flavour, config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ConversionError(f"{flavour} {trt.__version__} parsed {onnx_file.name} but built no engine; its log says why")
    path.write_bytes(plan)
    return TensorRTArtifact(
        precision="fp32",
        file=digest(path),
        flavour=flavour,
        version=trt.__version__,
        compute_capabilities=capabilities,
        profiles=(shapes,),
        proven=False,
    )


def profile_shape(spec: TensorSpec) -> ProfileShape:
    """Smallest, usual and largest shape of an input, from its ranges."""

    def at(size: str) -> tuple[int, ...]:
        return tuple(getattr(dim, size) if isinstance(dim, ShapeRange) else dim for dim in spec.shape)

    return ProfileShape(min=at("min"), opt=at("opt"), max=at("max"))


def _target(trt: Any, flavour: Flavour, config: Any) -> tuple[str, ...]:
    """The compute capabilities the engine will run on; for RTX they are set here."""
    if flavour == "tensorrt":
        return (cuda.compute_capability(),)
    config.num_compute_capabilities = len(RTX_CAPABILITIES)
    for index, capability in enumerate(RTX_CAPABILITIES):
        config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + capability.replace(".", "")), index)
    return RTX_CAPABILITIES


def _describe(error: Any) -> str:
    """One parser error, with the node it is about."""
    return f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}"
