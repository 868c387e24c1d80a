"""`python -m loadtests.compare`: Quartet beside other model servers, in one run, on this machine.

Every server serves the same ONNX files with one thread per session. Its answers are compared with ONNX Runtime's before it
is timed; an error under load makes its figure invalid. Figures are medians over rounds that go through all servers in turn;
only ratios within one run say anything about another machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from loadtests.compare import environments, growth, results, servers, summary, wrk
from loadtests.compare.cases import CASES, GROWTH, UnknownName, choose
from loadtests.compare.models import FAMILIES, NotMade, Served, make
from loadtests.compare.process import adopt_orphans
from loadtests.compare.results import Results
from loadtests.compare.rounds import Plan, measure
from loadtests.compare.servers import NAMES, PEERS, RAW, Peer

CACHE = Path("~/.cache/quartet-compare")
FILES = 16_384  # open at once


def main(arguments: list[str]) -> int:
    """Measure and print; 0 where every figure counts, 1 where some do not, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog="peers:\n"
        + "\n".join(f"  {name:<13} {summary.NOTES.get(name, '')}" for name in NAMES)
        + "\n\ncases:\n  "
        + ", ".join(case.name for case in CASES)
        + "\n  "
        + ", ".join(GROWTH)
        + "\n  or a model: "
        + ", ".join(FAMILIES),
    )
    parser.add_argument("--peers", default="all", help="beside Quartet, comma between; none for Quartet alone (default: all)")
    parser.add_argument("--cases", default="all", help="names of cases or models, comma between (default: all)")
    parser.add_argument(
        "--quartet", action="append", metavar="OPTIONS", help='options for our server, as "--workers 2"; again for one more variant'
    )
    parser.add_argument("--compiled", action="store_true", help="our server as the images hold it: `make compiled` first")
    parser.add_argument("--seconds", type=float, default=8, help="of each timing (default: %(default)s)")
    parser.add_argument("--warm-up", type=float, default=2, help="seconds of load before each timing (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="models, kept between runs (default: %(default)s)")
    parser.add_argument("--venvs", type=Path, help="the peers' environments, kept between runs (default: CACHE/venvs)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("compare"),
        help="folder for results.json, tables.md, pictures, logs (default: %(default)s)",
    )
    parser.add_argument("--prepare", action="store_true", help="make models and environments, and stop")
    chosen = parser.parse_args(arguments)
    if min(chosen.seconds, chosen.warm_up) < 1 or chosen.rounds < 1:
        parser.error("--seconds, --warm-up and --rounds must be at least 1")
    if chosen.compiled and not servers.COMPILED.exists():
        parser.error(f"nothing is compiled in {servers.COMPILED}: make compiled")
    try:
        peers, cases, grown = _peers(chosen.peers), *_cases(chosen.cases)
        wrk.require()
    except (UnknownName, wrk.WrkError) as error:
        parser.error(str(error))
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped on the way out
    _allow_connections()
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        return _compare(chosen, peers, cases, grown)
    except (NotMade, environments.NotInstalled, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("compare: interrupted; what was measured is in the results' file", file=sys.stderr)
        return 130


def _compare(chosen: argparse.Namespace, peers: list[str], cases: list[str], grown: list[str]) -> int:
    from loadtests.compare import pictures  # matplotlib takes a while

    cache = chosen.cache.expanduser()
    venvs = (chosen.venvs or cache / "venvs").expanduser()
    timed = [case for case in CASES if case.name in cases]
    ours = servers.quartets(chosen.quartet or [""], chosen.compiled)
    others = [peer for peer in PEERS if peer.name in peers] if timed else []
    models = [model for model in FAMILIES if any(case.model == model for case in timed) or (grown and model == "mlp")]
    versions = _environments(others, venvs)
    served = {model: _made(model, cache / "models") for model in models}
    if chosen.prepare:
        return 0
    chosen.out.mkdir(parents=True, exist_ok=True)
    found = Results(summary.facts(chosen.seconds, chosen.warm_up, chosen.rounds, versions, served))
    plan = Plan(chosen.seconds, chosen.warm_up, chosen.rounds, venvs, Path(tempfile.mkdtemp(prefix="quartet-compare-")), _tell)
    _tell(f"the servers' logs: {plan.logs}")

    def save() -> None:
        (chosen.out / "results.json").write_text(json.dumps(found.to_json(), indent=1) + "\n")

    try:
        if timed:
            with_raw = RAW in peers
            measure(plan, [served[model] for model in models], timed, [*others, *ours], with_raw, found, save)
        if grown:
            fp32 = [server for server in ours if server.way == "fp32"]
            growth.measure(plan, grown, served["mlp"], fp32, found.growth.append)
    finally:
        save()
        report = summary.report(found, [server.name for server in ours])
        (chosen.out / "tables.md").write_text(report + "\n")
        print(f"\n{report}")
        drawn = [
            path
            for draw, name in ((pictures.draw_throughput, "throughput.png"), (pictures.draw_growth, "growth.png"))
            if draw(found, path := chosen.out / name)
        ]
        print(f"\nwritten: {', '.join(map(str, [chosen.out / 'results.json', chosen.out / 'tables.md', *drawn]))}")
    return 1 if results.faults(found) else 0


def _peers(text: str) -> list[str]:
    return [] if text == "none" else choose(_names(text), NAMES, "peer")


def _cases(text: str) -> tuple[list[str], list[str]]:
    """Names of the cases, those of a model for its name; and of the curves."""
    names = _names(text)
    known = [*(case.name for case in CASES), *GROWTH]
    of_models = [case.name for case in CASES if case.model in names]
    found = choose([*(name for name in names if name not in FAMILIES), *of_models], known, "case or model")
    return [name for name in found if name not in GROWTH], [name for name in found if name in GROWTH]


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _made(model: str, work: Path) -> Served:
    _tell(f"model {model}: below {work}, trained and exported where it is not there yet")
    return make(model, work)


def _environments(peers: Sequence[Peer], venvs: Path) -> dict[str, dict[str, str]]:
    """The environments, made where needed, and the versions in them."""
    found = {}
    for folder in dict.fromkeys(peer.folder for peer in peers):
        _tell(f"environment of {folder}: below {venvs}, installed where it is not there yet")
        found[folder] = environments.versions(folder, environments.python(folder, venvs))
    return found


def _allow_connections() -> None:
    """Enough open files for a thousand connections, for us and for what we start; the usual limit is 1,024."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, wanted), most))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
