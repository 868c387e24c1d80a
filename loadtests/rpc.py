"""`python -m loadtests.rpc --repository models`: what a request costs over gRPC, and over HTTP with binary tensors.

The same golden rows, one in each request, from callers who wait for their answer before they send the next. A client in Python
takes as long as the server does, so the server's own processor time for each request stands beside the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import uvloop

from loadtests.calls import golden_calls, golden_rows
from loadtests.client import closed_loop
from loadtests.server import NotStarted, Server, free_port
from modelrepo.repository import Repository
from modelrepo.tensors import Tensors
from quartet_client.wire import DATATYPES
from service.rpc.messages import ModelInferRequest

METHOD = "/inference.GRPCInferenceService/ModelInfer"
Measured = Callable[[int, float], Awaitable[int]]
"""Sends with so many callers for so many seconds; returns how many answers came."""


def main(arguments: list[str]) -> int:
    """Print a line for each interface and number of callers."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.rpc", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("models"), help="published models (default: %(default)s)")
    parser.add_argument("--model", default="spirals-mlp", help="which of them (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help="for each line (default: %(default)s)")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16], help="at once (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        uvloop.run(_compare(chosen.repository.resolve(), chosen.model, chosen.seconds, chosen.callers))
    except NotStarted as error:
        print(f"the server did not start: {error}", file=sys.stderr)
        return 2
    return 0


async def _compare(path: Path, model: str, seconds: float, callers: list[int]) -> None:
    repository = Repository(path)
    calls = golden_calls(repository, model, binary=True)
    rows = [_request(model, inputs) for inputs, _ in golden_rows(repository.open(model))]
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="quartet-rpc-") as folder:
        async with (
            Server(path, Path(folder) / "log", "--grpc-port", str(port)) as server,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            infer: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)

            async def over_http(callers: int, seconds: float) -> int:
                return len((await closed_loop(server.address, calls, callers, seconds)).right)

            async def over_grpc(callers: int, seconds: float) -> int:
                end = time.monotonic() + seconds

                async def caller() -> int:
                    answers = 0
                    while time.monotonic() < end:
                        await infer(rows[answers % len(rows)])
                        answers += 1
                    return answers

                return sum(await asyncio.gather(*(caller() for _ in range(callers))))

            print(f"{'interface':12}{'callers':>8}{'requests/s':>12}{'server us each':>16}")
            for count in callers:
                for name, measured in (("HTTP binary", over_http), ("gRPC", over_grpc)):
                    await measured(count, seconds / 4)  # warmed up
                    print(f"{name:12}{count:8}" + await _line(server, measured, count, seconds), flush=True)


async def _line(server: Server, measured: Measured, callers: int, seconds: float) -> str:
    spent, started = server.processor_seconds(), time.monotonic()
    answers = await measured(callers, seconds)
    passed, spent = time.monotonic() - started, server.processor_seconds() - spent
    return f"{answers / passed:12,.0f}{spent / answers * 1e6:16,.0f}"


def _request(model: str, inputs: Tensors) -> bytes:
    """A request for raw tensors both ways, as it goes over the wire."""
    made = ModelInferRequest(model_name=model, raw_input_contents=[array.tobytes() for array in inputs.values()])
    for name, array in inputs.items():
        made.inputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
    return made.SerializeToString()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
