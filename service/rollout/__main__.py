"""`python -m service.rollout start digits-cnn canary:10`: rolls versions out on a server that runs, over HTTP.

    start MODEL [STAGES]    load a newer version and begin, e.g. with shadow:20,canary:10 (percent)
    change MODEL STAGE      another share or mode in place of the present stage
    show [MODEL]            how far it is
    wait MODEL              until it is decided
    promote MODEL           the new version serves alone
    rollback MODEL          the old version serves alone; the new one is not taken again unasked

Exit status: 0 done (`wait`: promoted), 1 refused or not reached, 2 wrong arguments, 3 (`wait`) rolled back, 4 (`wait`) not decided
in time.
"""

from __future__ import annotations

import argparse
import getpass
import json
import socket
import sys
import time
import urllib.error
import urllib.request
from typing import Any, cast
from urllib.parse import quote

from service.rollout import plan

SECONDS = 600  # for an answer: starting loads and proves a version
POLL = 0.5  # seconds between looks while waiting

Json = dict[str, Any]


class Failed(Exception):
    """What the server said, or that it said nothing."""


def main(arguments: list[str]) -> int:
    """Do what the arguments say, on each server in turn; see above for the status."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.verb == "start":
        chosen.stages = _checked(parser, plan.stages, chosen.stages)
        _checked(parser, plan.limits, chosen.limits)
    if chosen.verb == "change" and "," in (_checked(parser, plan.stages, chosen.stage) or ""):
        parser.error("change takes one stage, not several")
    statuses = []
    for server in chosen.server or ["http://127.0.0.1:8000"]:
        try:
            statuses.append(_do(server.rstrip("/"), chosen))
        except Failed as error:
            print(f"rollout: {server}: {error}", file=sys.stderr)
            statuses.append(1)
    return max(statuses)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service.rollout", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--server", action="append", metavar="URL", help="may be given several times (default: http://127.0.0.1:8000)"
    )
    common.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help="to send along, such as a key")
    common.add_argument("--json", action="store_true", help="print what the server answers")
    order = argparse.ArgumentParser(add_help=False)
    order.add_argument("--reason", default="", help="for the audit log")
    order.add_argument(
        "--by", default=f"{getpass.getuser()}@{socket.gethostname()}", help="for the audit log (default: %(default)s)"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    start = verbs.add_parser("start", parents=[common, order], help="load a newer version and begin")
    start.add_argument("model")
    start.add_argument("stages", nargs="?", help="such as shadow:20,canary:10; those of the server's --rollout where left out")
    start.add_argument("--version", type=int, help="the newest where left out")
    start.add_argument("--limits", default="", help="those that differ from the server's, such as 'errors=0.01 mean=none'")
    change = verbs.add_parser("change", parents=[common, order], help="another share or mode")
    change.add_argument("model")
    change.add_argument("stage", help="such as canary:25")
    show = verbs.add_parser("show", parents=[common], help="how far it is")
    show.add_argument("model", nargs="?")
    wait = verbs.add_parser("wait", parents=[common], help="until it is decided")
    wait.add_argument("model")
    wait.add_argument("--timeout", type=float, default=3600, help="seconds (default: %(default)s)")
    for verb, text in (("promote", "the new version serves alone"), ("rollback", "the old version serves alone")):
        verbs.add_parser(verb, parents=[common, order], help=text).add_argument("model")
    return parser


def _checked(parser: argparse.ArgumentParser, read: Any, text: str | None) -> str | None:
    """A text that the server will understand."""
    if text is not None:
        try:
            read(text)
        except ValueError as error:
            parser.error(str(error))
    return text


def _do(server: str, chosen: argparse.Namespace) -> int:
    if chosen.verb == "show" and chosen.model is None:
        return _show(chosen, cast(list[Json], _ask(chosen, f"{server}/v2/repository/rollouts")))
    url = f"{server}/v2/repository/models/{quote(chosen.model, safe='')}/rollout"
    if chosen.verb == "show":
        return _show(chosen, [cast(Json, _ask(chosen, url))])
    if chosen.verb == "wait":
        return _wait(chosen, url)
    order: Json = {"by": chosen.by, "reason": chosen.reason}
    if chosen.verb == "start":
        limits = {} if not chosen.limits else dict(part.split("=") for part in chosen.limits.split())
        order["limits"] = {name: None if value == plan.NONE else value for name, value in limits.items()}
        order |= {name: value for name in ("version", "stages") if (value := getattr(chosen, name)) is not None}
    elif chosen.verb == "change":
        order["stage"] = chosen.stage
    return _show(chosen, [cast(Json, _ask(chosen, f"{url}/{chosen.verb}", order))])


def _wait(chosen: argparse.Namespace, url: str) -> int:
    end = time.monotonic() + chosen.timeout
    while True:
        state = cast(Json, _ask(chosen, url))
        if state["last"] is None and state["rollout"] is None:
            raise Failed(f"nothing of model {chosen.model!r} was rolled out yet")
        if state["rollout"] is None:
            _show(chosen, [state])
            return 0 if state["phase"] == "promoted" else 3
        if time.monotonic() > end:
            _show(chosen, [state])
            return 4
        time.sleep(POLL)


def _ask(chosen: argparse.Namespace, url: str, order: Json | None = None) -> object:
    """What the server answers. Raises Failed."""
    body = None if order is None else json.dumps(order).encode()
    try:
        headers = {name.strip(): value.strip() for name, _, value in (header.partition(":") for header in chosen.header)}
        request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers})
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")
        try:
            raise Failed(json.loads(text)["error"]) from None
        except (ValueError, KeyError, TypeError):
            raise Failed(f"{error.code} {error.reason}: {text[:200]}") from None
    except (OSError, ValueError) as error:  # not there, no URL, or no JSON
        raise Failed(str(getattr(error, "reason", error))) from None


def _show(chosen: argparse.Namespace, found: list[Json]) -> int:
    if chosen.json:
        print(json.dumps(found, indent=2))
        return 0
    for state in found:
        print("\n".join(_lines(state)))
    if not found:
        print("nothing was rolled out yet")
    return 0


def _lines(state: Json) -> list[str]:
    model, rollout, last = state["model"], state["rollout"], state["last"]
    lines = []
    if rollout is not None:
        stages = ", ".join(f"[{stage}]" if stage == rollout["stage"] else stage for stage in rollout["stages"])
        lines.append(
            f"{model}:{rollout['version']} is being rolled out over version {state['serves']}: {state['phase']} of {stages}"
        )
        lines.append(f"  for {_span(time.time() - rollout['started'])}, by {rollout['by']}{_because(rollout['reason'])}")
    elif last is not None:
        lines.append(f"{model}:{last['version']} was {last['result']}, beside version {last['over']}, by {last['by']}")
        lines[-1] += _because(last["reason"])
    else:
        lines.append(f"{model}: nothing was rolled out yet")
    if state["figures"] is not None:
        for name in ("stable", "candidate"):
            of = state["figures"][name]
            times = "".join(f", {what} {of[f'{what}_ms']} ms" for what in ("mean", "p99") if of[f"{what}_ms"] is not None)
            lines.append(f"  {name:<10} {of['requests']} requests, {of['failed']} failed{times}")
        compared = state["figures"]["compared"]
        if compared["copies"] or compared["dropped"]:
            lines.append(
                f"  compared   {compared['rows']} rows: {compared['disagreeing']} disagree, {compared['differing']} differ by more "
                f"than the tolerance, at most by {compared['largest']:.3g}; {compared['failed']} copies failed, "
                f"{compared['dropped']} dropped"
            )
    if state["rejected"]:
        lines.append(f"  not taken again unless named: {', '.join(state['rejected'])}")
    return lines


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _span(seconds: float) -> str:
    """In the largest unit that fits."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(seconds, 0):.0f} s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
