"""`python -m loadtests.cost --repository models`: what each feature costs a request, in this process's own time.

The server's protocol answers requests of one row on connections that are no sockets, so that neither a client nor the kernel is
measured. Variants run in processes of their own and take turns; what counts is their ratio to the server as it starts without
options. `--before REVISION` adds the code of another commit: everything between it and this one, at once.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONNECTIONS = 32
REQUESTS = 3_200  # of a round
PLAIN = "as it starts without options"
VARIANTS: dict[str, dict[str, Any]] = {
    "the same again: how far equals are apart": {},
    "drift not looked for": {"drift_rows": 0},
    "an access log, to a file": {"access_log": True},
    "an API key asked for": {"keys": True},
    "1 % captured": {"capture": True},
    "answers from the response cache": {"response_cache_bytes": "1000000"},
}


def main(arguments: list[str]) -> int:
    """Print a table: microseconds a request, and the ratio to the plain server, medians over the rounds."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.cost", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True, help="published models, spirals-mlp among them")
    parser.add_argument("--model", default="spirals-mlp", help="one whose rows are numbers (default: %(default)s)")
    parser.add_argument("--before", metavar="REVISION", help="a commit of this repository to compare with")
    parser.add_argument(
        "--before-repository", type=Path, help="the same models as that commit published them (default: REPOSITORY)"
    )
    parser.add_argument("--rounds", type=int, default=40, help="(default: %(default)s)")
    chosen = parser.parse_args(arguments)
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(_server(ROOT, chosen.repository, chosen.model, options))
            for name, options in {PLAIN: {}, **VARIANTS}.items()
        }
        if chosen.before:
            tree = stack.enter_context(_checked_out(chosen.before))
            repository = chosen.before_repository or chosen.repository
            started[f"code of {chosen.before}"] = stack.enter_context(_server(tree, repository, chosen.model, {}))
        times: dict[str, list[float]] = {name: [] for name in started}
        for _ in range(chosen.rounds):
            for name, round_of in started.items():
                times[name].append(round_of())
    plain = times[PLAIN]
    print("| variant | us a request | against the plain server |\n|---|---|---|")
    for name, taken in times.items():
        ratio = statistics.median(one / other for one, other in zip(taken, plain, strict=True))
        print(f"| {name} | {statistics.median(taken):.1f} | {ratio:.3f} |")
    return 0


@contextmanager
def _checked_out(revision: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, revision], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


@contextmanager
def _server(tree: Path, repository: Path, model: str, options: dict[str, Any]) -> Iterator[Callable[[], float]]:
    """A function that runs a round and returns its microseconds a request. What ends the server ends all, with its log."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        told = json.dumps({"repository": str(repository.resolve()), "model": model, "folder": folder, "options": options})
        log = stack.enter_context((Path(folder) / "log").open("w+"))
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--serve", told],  # -P: of our modules only those of `tree`
            env={**os.environ, "PYTHONPATH": str(tree)},
            cwd=tree,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        stack.callback(process.communicate)

        def timed() -> float:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write("go\n")
                process.stdin.flush()
                return float(process.stdout.readline())
            except (BrokenPipeError, ValueError):
                status = process.wait()
                log.seek(0)
                raise SystemExit(f"the server with {options} ended, status {status}:\n{log.read()[-2000:]}") from None

        yield timed


class _Connection(asyncio.Transport):
    """A transport that counts what is written to it; a wrong status ends the process."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = 0

    def write(self, data: Any) -> None:
        if not bytes(data[:15]).startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"not an answer: {bytes(data[:300])!r}")
        self.answers += 1

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...


async def _serve(told: dict[str, Any]) -> None:
    """A round for each line from standard input."""
    import uvicorn

    from modelrepo.repository import Repository
    from service.app import create_app
    from service.protocol import Protocol, Shared
    from service.settings import Settings

    options, folder, header = dict(told["options"]), Path(told["folder"]), b""
    if options.get("capture"):
        options["capture"] = folder / "capture"
    if options.get("keys"):
        options["keys"] = folder / "keys.toml"
        made = subprocess.run(
            [sys.executable, "-m", "service.keys", "--keys", options["keys"], "add", "caller"], capture_output=True, check=True
        )
        header = b"Authorization: Bearer " + made.stdout.split()[-1] + b"\r\n"
    app = create_app(Settings(repository=told["repository"], device="cpu", **options))
    async with app.lifespan():
        config = uvicorn.Config(app, lifespan="off", log_config=None)
        config.load()
        state = uvicorn.server.ServerState()
        shared = Shared()
        connections = []
        for _ in range(CONNECTIONS):
            protocol = Protocol(
                config,
                state,
                {},
                asyncio.get_running_loop(),
                max_header_bytes=65536,
                read_timeout=30,
                quick=app.quick,
                shared=shared,
            )
            transport = _Connection()
            protocol.connection_made(transport)
            connections.append((protocol, transport))
        row = Repository(told["repository"]).open(told["model"]).manifest.signature.inputs[0]
        shape = row.shape_at(1)
        zeros = {"name": row.name, "shape": shape, "datatype": "FP32", "data": [0.0] * math.prod(shape)}
        body = json.dumps({"inputs": [zeros]}).encode()
        head = f"POST /v2/models/{told['model']}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        request = head.encode() + header + b"Content-Length: %d\r\n\r\n" % len(body) + body

        async def turns(number: int) -> None:
            for _ in range(number):
                wanted = connections[0][1].answers + 1
                for protocol, _ in connections:
                    protocol.data_received(request)
                while any(transport.answers < wanted for _, transport in connections):
                    await asyncio.sleep(0)

        await turns(20)
        gc.collect()
        gc.freeze()
        number = REQUESTS // CONNECTIONS
        while await asyncio.to_thread(sys.stdin.readline):
            started = time.perf_counter()
            await turns(number)
            print((time.perf_counter() - started) / number / CONNECTIONS * 1e6, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        import uvloop

        uvloop.run(_serve(json.loads(sys.argv[2])))
    else:
        sys.exit(main(sys.argv[1:]))
