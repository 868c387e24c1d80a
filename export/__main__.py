"""`python -m export RUN … --repository models`; `copy` and `build-engines` for a version that is published already."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path
from types import TracebackType
from typing import Self, get_args

from export import engines, layouts
from export.to_tensorrt import RTX_CAPABILITIES, EngineOptions
from modelrepo.errors import QuartetError
from modelrepo.repository import ModelVersion, Repository
from runtime.tensorrt_flavour import FLAVOURS

TABLE_WIDTH = 170  # a pipe says 80, which would cut the figures off


def main(arguments: list[str]) -> int:
    """Do as the arguments say; 0 on success, 1 with messages where anything failed, 2 for wrong arguments."""
    match arguments[:1]:
        case ["copy"]:
            return copy(arguments[1:])
        case ["build-engines"]:
            return build_engines(arguments[1:])
        case _:
            return export(arguments)


def export(arguments: list[str]) -> int:
    """Export every run named."""
    from rich.console import Console  # these need what a machine that only serves does not have, torch among them

    from export import gates
    from export.conversions import PRECISIONS
    from export.pipeline import Options, export_run
    from export.report import Report, print_tables

    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turn the best checkpoint of each run into ONNX files and, where TensorRT is installed, engines; "
        "compare each with PyTorch; measure its speed; publish what passes as the next version of each model.",
        epilog="`python -m export copy --help`: a published version in the layout of another server. "
        "`python -m export build-engines --help`: engines for a published version, on the machine that will serve it.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder that `python -m training` wrote")
    parser.add_argument("--repository", required=True, type=Path, help="folder to publish to; made where it is missing")
    parser.add_argument("--name", help="name of the model, for a single RUN; default: the run folder's name")
    parser.add_argument(
        "--precisions",
        default=",".join(PRECISIONS),
        help="what to try besides fp32, which is always made; what misses its gate is left out (default: %(default)s)",
    )
    parser.add_argument(
        "--gate",
        action="append",
        default=[],
        metavar="NAME.FIELD=NUMBER",
        help="another limit, such as int8.max_loss=0.02 or fp16.atol=1e-2: how far a precision may be from PyTorch",
    )
    parser.add_argument(
        "--modelopt-python",
        type=Path,
        metavar="PYTHON",
        help="interpreter of an environment that has NVIDIA ModelOpt, whose fp16, bf16, int8 and fp8 files are then tried too",
    )
    parser.add_argument(
        "--no-internals",
        dest="internals",
        action="store_false",
        help="leave out explain.onnx: feature maps, gates, attention, for whoever asks the service what happens inside",
    )
    parser.add_argument("--reuse", action="store_true", help="keep the newest version where it was made from this very checkpoint")
    _add_tensorrt(parser, ("auto", "off", *FLAVOURS))
    chosen = parser.parse_args(arguments)
    if chosen.name is not None and len(chosen.runs) > 1:
        parser.error("--name goes with a single RUN")
    precisions = [precision.strip() for precision in chosen.precisions.split(",")]
    if unknown := sorted(set(precisions) - set(PRECISIONS)):
        parser.error(f"--precisions: {', '.join(unknown)} is none of {', '.join(PRECISIONS)}")
    try:
        options = Options(
            tensorrt=chosen.tensorrt,
            engines=_engine_options(chosen),
            precisions=tuple(precision for precision in PRECISIONS if precision in {"fp32", *precisions}),
            gates=gates.parse(chosen.gate),
            modelopt=chosen.modelopt_python,
            internals=chosen.internals,
            command=shlex.join(argument for argument in arguments if argument not in {str(run) for run in chosen.runs}),
        )
    except ValueError as error:
        parser.error(str(error))

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("export").setLevel(logging.INFO)
    repository = Repository(chosen.repository)
    done: list[tuple[Report, int]] = []
    failed = 0
    for run in chosen.runs:
        with _Told(chosen.repository, "nothing published", f"{run}: ") as told:
            name = run.resolve().name if chosen.name is None else chosen.name
            done.append(export_run(run, repository, name, options, chosen.reuse))
        failed += told.status
    if done:
        console = Console()
        print_tables(done, Console(width=max(console.width, TABLE_WIDTH)))
    return 1 if failed else 0


def build_engines(arguments: list[str]) -> int:
    """Build engines for a published version, on this machine."""
    parser = argparse.ArgumentParser(
        prog="python -m export build-engines",
        description="Build TensorRT engines from the ONNX files of a published version, for the GPU and the TensorRT of this "
        "machine, and add them under a key of both. Nothing that is there is touched. Needs no PyTorch.",
    )
    parser.add_argument("--repository", required=True, type=Path, help="folder that `python -m export` published to")
    parser.add_argument("--model", required=True, metavar="NAME[:VERSION]", help="default: the newest version")
    parser.add_argument("--dry-run", action="store_true", help="say what would be built, and build nothing")
    _add_tensorrt(parser, ("auto", *FLAVOURS))
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("export").setLevel(logging.INFO)
    with _Told(chosen.repository, "no engine added") as told:
        version = _open(parser, chosen.repository, chosen.model)
        for line in engines.build(version, chosen.tensorrt, _engine_options(chosen), chosen.dry_run):
            print(line)
    return told.status


class _Told:
    """A block whose failure is told on stderr; `status` is then 1, and 0 otherwise.

    `place` stands for the file where the system names none, `outcome` says what did not happen.
    """

    def __init__(self, place: Path, outcome: str, about: str = "") -> None:
        self.status = 0
        self._place, self._outcome, self._about = place, outcome, about

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        match error:
            case QuartetError():
                print(f"export: {error}", file=sys.stderr)
            case OSError():
                where = f"{self._about}{error.filename or self._place}"
                print(f"export: {where}: {error.strerror}; {self._outcome}", file=sys.stderr)
            case _:
                return False
        self.status = 1
        return True


def _add_tensorrt(parser: argparse.ArgumentParser, flavours: tuple[str, ...]) -> None:
    """The options about engines, each with what it costs."""
    group = parser.add_argument_group("TensorRT")
    group.add_argument(
        "--tensorrt",
        choices=flavours,
        default="auto",
        help="which TensorRT builds; auto: whichever is installed and can build here",
    )
    group.add_argument(
        "--level", type=int, choices=range(6), help="the builder's effort: quick builds at 0, the fastest engines at 5"
    )
    group.add_argument("--workspace", type=int, metavar="MIB", help="scratch memory the engine may use (default: all there is)")
    group.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="read and written: the next build on such a GPU is quicker"
    )
    group.add_argument("--tf32", action="store_true", help="round fp32 factors to 10 bits: faster, and rarely within fp32's gate")
    group.add_argument("--hardware-compatible", action="store_true", help="run on every GPU from Ampere on: some speed lost")
    group.add_argument(
        "--version-compatible", action="store_true", help="run under later TensorRT versions: fewer kernels to choose from"
    )
    group.add_argument("--refit", action="store_true", help="let weights be exchanged in the built engine: some speed lost")
    group.add_argument("--strip", action="store_true", help="leave the weights out of the file: it must be refitted before it runs")
    group.add_argument(
        "--every-bucket", action="store_true", help="tune for each batch bucket: several times the build time and the file"
    )
    group.add_argument(
        "--capabilities",
        default=",".join(RTX_CAPABILITIES),
        metavar="LIST",
        help="compute capabilities that TensorRT-RTX builds for (default: %(default)s)",
    )


def _engine_options(chosen: argparse.Namespace) -> EngineOptions:
    return EngineOptions(
        level=chosen.level,
        workspace=chosen.workspace,
        timing_cache=chosen.timing_cache,
        hardware_compatible=chosen.hardware_compatible,
        version_compatible=chosen.version_compatible,
        tf32=chosen.tf32,
        refit=chosen.refit,
        strip=chosen.strip,
        every_bucket=chosen.every_bucket,
        capabilities=tuple(capability.strip() for capability in chosen.capabilities.split(",")),
    )


def _open(parser: argparse.ArgumentParser, repository: Path, model: str) -> ModelVersion:
    """The version that NAME or NAME:VERSION names. Raises RepositoryError."""
    name, _, version = model.partition(":")
    if version and not version.isdecimal():
        parser.error(f"--model takes NAME or NAME:VERSION with a number, not {model!r}")
    return Repository(repository).open(name, int(version) if version else None)


def copy(arguments: list[str]) -> int:
    """Copy a published version into the layout of another server."""
    parser = argparse.ArgumentParser(
        prog="python -m export copy",
        description="Copy a published version into the folders that another server reads.",
    )
    parser.add_argument("--repository", required=True, type=Path, help="folder that `python -m export` published to")
    parser.add_argument("--model", required=True, metavar="NAME[:VERSION]", help="default: the newest version")
    parser.add_argument(
        "--layout", required=True, choices=get_args(layouts.Layout), help="triton: a model repository; kserve: for a storageUri"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write to; made where it is missing")
    chosen = parser.parse_args(arguments)
    with _Told(chosen.out, "nothing copied") as told:
        published = _open(parser, chosen.repository, chosen.model)
        print(layouts.copy(published, chosen.layout, chosen.out))
    return told.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
