"""`python -m service.keys --keys FILE add|list|revoke`: makes, lists and revokes API keys; a server that runs follows the file."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import get_args

from modelrepo.errors import QuartetError
from service.keys import file
from service.keys.file import Key, KeysError, Scope
from service.settings import PREFIX

VARIABLE = PREFIX + "KEYS"


def main(arguments: list[str]) -> int:
    """0 where it was done, 1 with a message where it cannot be."""
    asked = _read(arguments)
    try:
        match asked.verb:
            case "add":
                _add(asked)
            case "list":
                _list(asked.keys)
            case _:
                _revoke(asked.keys, asked.name)
    except QuartetError as error:
        print(f"keys: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a folder that is not there, or a file system that may not be written to
        print(f"keys: {asked.keys}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _read(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m service.keys", description=__doc__)
    default = os.environ.get(VARIABLE)
    parser.add_argument("--keys", type=Path, default=default, required=default is None, help=f"the file; else ${VARIABLE}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    add = verbs.add_parser("add", help="make a key and print it: the file has its hash alone, so it cannot be told again")
    add.add_argument("name", help="whose it is; the name stands in metrics and logs")
    add.add_argument("--scope", action="append", choices=get_args(Scope), help="infer (the default), admin, read; more than once")
    add.add_argument("--model", action="append", help="a model that it is for, and no others; more than once")
    add.add_argument("--rate", type=float, help="requests a second, over all workers of a server")
    add.add_argument("--burst", type=int, help="requests that may come at once; as many as in a second where it is left out")
    add.add_argument("--concurrency", type=int, help="requests under way at a time")
    verbs.add_parser("list", help="the keys by name")
    revoke = verbs.add_parser("revoke", help="remove a key: servers refuse it within a second")
    revoke.add_argument("name")
    return parser.parse_args(arguments)


def _add(asked: argparse.Namespace) -> None:
    scopes = None if asked.scope is None else tuple(dict.fromkeys(asked.scope))
    models = None if asked.model is None else tuple(dict.fromkeys(asked.model))
    with file.alone(asked.keys):
        present = file.read(asked.keys) if asked.keys.exists() else ()
        if any(key.name == asked.name for key in present):
            raise KeysError(f"{asked.keys}: there is a key {asked.name!r}: revoke it, or give another name")
        secret, key = file.fresh(
            asked.name, scopes=scopes, models=models, rate=asked.rate, burst=asked.burst, concurrency=asked.concurrency
        )
        file.write(asked.keys, (*present, key))
    print(secret)
    print(f"keys: {asked.keys} has {_described(key)}; the key above is not shown again", file=sys.stderr)


def _list(path: Path) -> None:
    for key in file.read(path):
        print(_described(key))


def _revoke(path: Path, name: str) -> None:
    with file.alone(path):
        present = file.read(path)
        left = tuple(key for key in present if key.name != name)
        if len(left) == len(present):
            raise KeysError(f"{path}: no key {name!r}; there are {', '.join(key.name for key in present) or 'none'}")
        file.write(path, left)
    print(f"keys: {name} is revoked", file=sys.stderr)


def _described(key: Key) -> str:
    parts = [key.name, f"({', '.join(key.scopes)})", f"for {', '.join(key.models)}" if key.models else "for all models"]
    if key.rate is not None:
        parts.append(f"{key.rate:g} requests/s, {key.at_once} at once")
    if key.concurrency is not None:
        parts.append(f"{key.concurrency} at a time")
    return "  ".join([*parts, *([f"since {key.created}"] if key.created else [])])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
