"""`python -m loadtests.drills NAME… | all --repository models`: faults on real processes, under load.

Every answer is compared with the golden row that was sent. A request is answered right, or refused cleanly (429, 503 or 504 with
an error in JSON; 429 with Retry-After), or lost: a wrong answer, another status, a broken connection, nothing within 15 s.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadtests.drills.canary import canary
from loadtests.drills.connections import cut, slowloris
from loadtests.drills.drill import Outcome, Setting
from loadtests.drills.memory import memory
from loadtests.drills.overload import overload
from loadtests.drills.poison import poison
from loadtests.drills.rollout import rollout
from loadtests.drills.versions import corrupt, hot_swap, repository_gone
from loadtests.server import NotStarted

DRILLS: dict[str, Callable[[Setting], Coroutine[Any, Any, Outcome]]] = {
    "rollout": rollout,
    "swap": hot_swap,
    "canary": canary,
    "corrupt": corrupt,
    "gone": repository_gone,
    "poison": poison,
    "cut": cut,
    "slowloris": slowloris,
    "overload": overload,
    "memory": memory,
}


def main(arguments: list[str]) -> int:
    """Run drills one after the other; 0 where nothing was lost and every promise kept, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.drills",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{__doc__}\n" + "\n".join(f"  {name:<10} {drill.__doc__}" for name, drill in DRILLS.items()),
    )
    parser.add_argument("names", nargs="+", choices=[*DRILLS, "all"], metavar="NAME", help="drills to run, or `all`")
    parser.add_argument("--repository", type=Path, default=Path("models"), help="published models (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="of overload and of mixed shapes (default: %(default)s)")
    parser.add_argument("--cycles", type=int, default=10_000, help="of loading and unloading (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    names = list(DRILLS) if "all" in chosen.names else chosen.names
    console = Console(width=max(Console().width, 120))
    gc.freeze()  # looking through all modules again and again would stop this client, and be taken for the server's doing
    failed = [name for name in names if not _run(console, name, chosen)]
    console.print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


def _run(console: Console, name: str, chosen: argparse.Namespace) -> bool:
    drill = DRILLS[name]
    console.print(f"\n[bold]{name}[/bold]: {escape(drill.__doc__ or '')}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"quartet-drill-{name}-") as folder:
        setting = Setting(chosen.repository.resolve(), Path(folder), chosen.seconds, chosen.cycles)
        try:
            outcome = uvloop.run(drill(setting))
        except NotStarted as error:
            console.print(f"  could not run: {escape(str(error))}")
            return False
        except Exception:  # noqa: BLE001 - the other drills still run
            console.print_exception()
            return False
        _show(console, outcome)
        log = setting.log.read_text(errors="replace") if setting.log.exists() else ""
    faults = [line for line in log.splitlines() if line.startswith(("ERROR", "Traceback"))]
    if not outcome.passed and faults:
        console.print(f"  the servers' log has {len(faults)} errors; the last: {escape(faults[-1])}")
    console.print(f"  {'passed' if outcome.passed else '[bold]FAILED[/bold]'} in {time.monotonic() - started:.0f} s")
    return outcome.passed


def _show(console: Console, outcome: Outcome) -> None:
    for note in outcome.notes:
        console.print(f"  {escape(note)}")
    if outcome.rows:
        table = Table("phase", *(("sent", "right", "refused", "lost", "p50 ms", "p99 ms")), box=None)
        for column in table.columns[1:]:
            column.justify = "right"
        for phase, report in outcome.rows:
            counts = (report.sent, len(report.right), len(report.refused), report.lost.total())
            times = (f"{report.right_ms(quantile):.1f}" for quantile in (0.5, 0.99))
            table.add_row(phase, *map(str, counts), *times)
        console.print(table)
    for phase, report in outcome.rows:
        for reason, count in report.lost.most_common(3):
            console.print(f"  lost in {escape(phase)}: {count} x {escape(reason)}")
    for text, kept in outcome.promises:
        console.print(f"  {'kept  ' if kept else '[bold]BROKEN[/bold]'} {escape(text)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
