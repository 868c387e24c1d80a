"""`python -m loadtests.mlperf --repository models` or `--url http://127.0.0.1:8000`: open-loop load, and what a server makes of it.

For every model MLPerf's scenarios, driven by MLCommons' LoadGen (SingleStream, Server, Offline), then latency against offered load,
up to and beyond saturation. Every answer is compared with the golden row that was sent, or, where there is only a URL, with what
the server answered before. Exit status 1 where an answer was wrong or missing.

Written to the folder: LoadGen's logs of every run, results.json, latency.png. Client and server share this machine unless the URL
says otherwise: the less a request computes, the more the client is measured, too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests.clients import Clients
from loadtests.mlperf.samples import Samples, samples_of
from loadtests.mlperf.scenarios import Bench, Run
from loadtests.mlperf.sweep import OVERLOAD, Sweep, draw, summary, sweep
from loadtests.served import NotServed, Served, discover
from loadtests.server import NotStarted, Server
from modelrepo.errors import QuartetError
from modelrepo.repository import Repository

PARTS = ("single-stream", "server", "offline", "sweep")
LATE = 100.0  # milliseconds after which a request was due, beyond the pauses that a busy machine makes
SWITCH = 2e-4  # seconds; LoadGen's thread and the event loop take turns, and Python's own 5 ms would be waits of 5 ms


@dataclass
class Found:
    """What was found for one model; what was left out is None."""

    model: str
    single_stream: Run | None = None
    server: tuple[float, Run] | None = None
    offline: Run | None = None
    sweep: Sweep | None = None


def main(arguments: list[str]) -> int:
    """Run, print, write; 0 where every answer was right or a clean refusal."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.mlperf", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument("--url", help="a running server; without it one is started on the repository")
    parser.add_argument("--repository", type=Path, help="published models: what is served, and golden rows")
    parser.add_argument("--model", nargs="+", help="these models only (default: all that are served)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--json", action="store_true", help="send rows as JSON rather than in binary")
    parser.add_argument("--seconds", type=_positive, default=10, help="of each run of LoadGen, at least (default: %(default)s)")
    parser.add_argument("--p99-ms", type=_positive, default=15, help="Server's bound (default: %(default)s)")
    parser.add_argument("--sweep-seconds", type=_positive, default=5, help="of each rate (default: %(default)s)")
    parser.add_argument("--rows", type=_count, help="a request of the sweep (default: as many as take 4 ms)")
    parser.add_argument("--out", type=Path, default=Path("build/mlperf"), help="folder of the results (default: %(default)s)")
    parser.add_argument("--server-option", action="append", default=[], metavar="--workers=2", help="of the server that is started")
    chosen = parser.parse_args(arguments)
    if not chosen.url and not chosen.repository:
        parser.error("give --repository, --url or both")
    sys.setswitchinterval(SWITCH)
    console = Console(width=max(Console().width, 120))
    try:
        found, lost = uvloop.run(_measure(chosen, console))
    except (QuartetError, NotStarted) as error:
        console.print(escape(str(error)))
        return 2
    _show(console, found, chosen)
    _write(found, chosen)
    console.print(f"written to {chosen.out}")
    for reason, count in lost.most_common(5):
        console.print(f"[bold]LOST[/bold] {count} x {escape(reason)}")
    return 1 if lost else 0


async def _measure(chosen: argparse.Namespace, console: Console) -> tuple[list[Found], Counter[str]]:
    chosen.out.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        url = chosen.url
        if not url:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quartet-mlperf-")))
            server = Server(chosen.repository.resolve(), folder / "server.log", *chosen.server_option, device="auto")
            url = (await stack.enter_async_context(server)).url
        served = {model.name: model for model in discover(url)}
        if unknown := sorted(set(chosen.model or ()) - set(served)):
            raise NotServed(f"{url} does not serve {', '.join(unknown)}; it serves {', '.join(served)}")
        parts = urlsplit(url)
        address = (parts.hostname or "127.0.0.1", parts.port or 80)
        clients = stack.enter_context(Clients(address))
        found: list[Found] = []
        lost: Counter[str] = Counter()
        for name in chosen.model or served:
            samples = _samples(url, served[name], chosen)
            console.print(f"{name}: {len(samples.rows)} rows, {'JSON' if chosen.json else 'binary'}")
            bench = Bench(address, samples, chosen.seconds, chosen.out / name, lost, console.print)
            found.append(await _model(bench, clients, chosen))
    return found, lost


def _samples(url: str, model: Served, chosen: argparse.Namespace) -> Samples:
    return samples_of(url, model, Repository(chosen.repository) if chosen.repository else None, not chosen.json)


async def _model(bench: Bench, clients: Clients, chosen: argparse.Namespace) -> Found:
    found = Found(bench.samples.model)
    if "single-stream" in chosen.parts:
        found.single_stream = await bench.single_stream()
    if "server" in chosen.parts:
        found.server = await bench.server(chosen.p99_ms)
    if "offline" in chosen.parts:
        found.offline = await bench.offline()
    if "sweep" in chosen.parts:
        found.sweep = await sweep(clients, bench.samples, chosen.rows, chosen.sweep_seconds, bench.lost)
    return found


def _show(console: Console, found: Sequence[Found], chosen: argparse.Namespace) -> None:
    table = Table(
        "model",
        "SingleStream p50 ms",
        "p99 ms",
        f"Server rows/s, p99 < {chosen.p99_ms:g} ms",
        "p99 ms",
        "Offline rows/s",
        "",
        box=None,
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for model in found:
        cells = [""] * 6
        runs = [model.single_stream, model.server[1] if model.server else None, model.offline]
        if model.single_stream:
            cells[:2] = (f"{model.single_stream.ms(percentile):.2f}" for percentile in ("50.00", "99.00"))
        if "server" in chosen.parts:
            cells[2] = "none"
        if model.server:
            cells[2:4] = f"{model.server[0]:.0f}", f"{model.server[1].ms('99.00'):.2f}"
        if model.offline:
            cells[4] = f"{model.offline.found['samples_per_second']:.0f}"
        cells[5] = "" if all(run is None or run.valid for run in runs) else "not valid, see LoadGen's logs"
        table.add_row(model.model, *cells)
    console.print(table)
    for model in found:
        if model.sweep:
            _show_sweep(console, model.sweep)


def _show_sweep(console: Console, found: Sweep) -> None:
    console.print(
        f"\n{found.model}, {found.rows} rows a request: saturated at {found.saturation:.0f} requests/s by {found.callers} callers; "
        f"client and server have {os.cpu_count()} cores together, where they share a machine"
    )
    table = Table(
        "of saturation", "offered/s", "right/s", "p50 ms", "p99 ms", "refused", "lost", "not sent", "sent late, ms", box=None
    )
    for column in table.columns:
        column.justify = "right"
    for point in (*found.points, found.overload):
        table.add_row(
            f"{point.share:.0%}",
            f"{point.rate:.0f}",
            f"{point.goodput:.0f}",
            f"{point.p50_ms:.2f}",
            f"{point.p99_ms:.2f}",
            f"{point.refused:.1%}",
            str(point.lost),
            f"{point.unsent:.1%}",
            f"{point.late_ms:.0f}",
        )
    console.print(table)
    console.print(f"p99 at 80 % of saturation: {found.tail:.2f} times the median")
    console.print(f"goodput at {OVERLOAD:g} times saturation: {found.kept:.0%} of it")
    if found.overload.unsent or found.overload.late_ms > LATE:
        console.print("that is of the client, which could not send as much in time: give it a machine of its own, and --url")


def _write(found: Sequence[Found], chosen: argparse.Namespace) -> None:
    sweeps = [model.sweep for model in found if model.sweep]
    if sweeps:
        draw(sweeps, chosen.out / "latency.png")
    content = {
        "p99_bound_ms": chosen.p99_ms,
        "interface": "v2-json" if chosen.json else "v2-binary",
        "models": {model.model: _record(model) for model in found},
    }
    staged = chosen.out / ".results.json"
    staged.write_text(json.dumps(content, indent=1, allow_nan=False))
    staged.rename(chosen.out / "results.json")


def _record(model: Found) -> dict[str, Any]:
    return {
        "single_stream": model.single_stream and model.single_stream.found,
        "server": model.server and {"rate": model.server[0], **model.server[1].found},
        "offline": model.offline and model.offline.found,
        "sweep": model.sweep and summary(model.sweep),
    }


def _positive(text: str) -> float:
    number = float(text)
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
