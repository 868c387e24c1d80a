"""NVIDIA ModelOpt, in an environment of its own: its 16-bit casts (AutoCast), and Q/DQ in int8 and fp8, beside ours."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from export import modelopt_worker
from export.emulation import emulated
from export.errors import ConversionError
from export.quantize import Judge
from modelrepo.manifest import OnnxArtifact, Precision, Quantization
from modelrepo.repository import digest
from modelrepo.tensors import Tensors

INSTALL = "python -m venv modelopt && modelopt/bin/pip install 'nvidia-modelopt[onnx]' 'torch>=2.13,<2.14'"
PRECISIONS: tuple[Precision, ...] = ("fp16", "bf16", "int8", "fp8")


def version(python: Path) -> str:
    """Of the ModelOpt that this interpreter has, as `nvidia-modelopt 0.47.0`. Raises ConversionError where it has none."""
    ask = "import importlib.metadata as m; print('nvidia-modelopt', m.version('nvidia-modelopt'))"
    try:
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True)
    except OSError as error:
        raise ConversionError(f"--modelopt-python {python}: {error.strerror}") from None
    if done.returncode:
        raise ConversionError(f"--modelopt-python {python} has no ModelOpt: {INSTALL}, then --modelopt-python modelopt/bin/python")
    return done.stdout.strip()


class ModelOpt:
    """The files that ModelOpt makes of one fp32 graph; all are made when the first is asked for."""

    def __init__(self, python: Path, source: Path, batches: list[Tensors], judge: Judge) -> None:
        """`batches` as for `Calibration`: ranges come from the even ones, and `judge` knows the odd ones."""
        self._python, self._source, self._batches, self._judge = python, source, batches[::2], judge
        self._version = version(python)
        self._made: dict[str, tuple[str | None, bytes]] = {}

    def make(self, precision: Precision, path: Path) -> OnnxArtifact:
        """Write the file of a precision to `path`. Raises ConversionError with ModelOpt's own words where it cannot be had."""
        self._made = self._made or self._convert()
        if precision in ("fp16", "bf16"):
            self._write(precision, path)
            quantization = None
        else:
            quantization = self._best(precision, path)
        opset = next(used.version for used in onnx.load(path).opset_import if used.domain in ("", "ai.onnx"))
        return OnnxArtifact(precision=precision, file=digest(path), opset=opset, quantization=quantization, converter=self._version)

    def _write(self, kind: str, path: Path) -> None:
        fault, data = self._made[kind]
        if fault is not None:
            raise ConversionError(f"{self._version}: {fault}")
        path.write_bytes(data)

    def _best(self, precision: Precision, path: Path) -> Quantization:
        """Write the file whose ranges give the smallest error."""
        errors: dict[str, float] = {}
        for method in ("entropy", "min-max"):
            if self._made[f"{precision}.{method}"][0] is not None:
                continue
            self._write(f"{precision}.{method}", path)
            if precision == "fp8":
                onnx.save(emulated(path, precision), path)
            errors[method] = self._judge.error(path)
        best = "entropy" if errors.get("entropy", np.inf) <= errors.get("min-max", np.inf) and errors else "min-max"
        self._write(f"{precision}.{best}", path)
        rows = sum(len(next(iter(batch.values()))) for batch in self._batches)
        scheme = "fp8" if precision == "fp8" else "s8s8"
        return Quantization.model_validate({"scheme": scheme, "method": best, "errors": errors, "rows": rows})

    def _convert(self) -> dict[str, tuple[str | None, bytes]]:
        """By kind: what went wrong, or None and the file."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rows = folder / "rows.npz"
            joined: dict[str, Any] = {name: np.concatenate([batch[name] for batch in self._batches]) for name in self._batches[0]}
            np.savez(rows, **joined)
            # -I: our own modelopt.py, beside the script, is not to be found in place of theirs
            source = folder / "source.onnx"  # a copy: ModelOpt writes to it
            source.write_bytes(self._source.read_bytes())
            command = [str(part) for part in (self._python, "-I", modelopt_worker.__file__, source, rows, folder)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise ConversionError(f"{self._version} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
            faults: dict[str, str | None] = json.loads(done.stdout)
            return {
                kind: (fault, b"" if fault is not None else (folder / f"{kind}.onnx").read_bytes())
                for kind, fault in faults.items()
            }
