"""`python -m modelrepo list models`, and what else is done with published versions: see --help.

A REPOSITORY is a folder or a URL (s3, gs, az, https, hf); a version is named as everywhere, digits-cnn:3, its newest digits-cnn.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelrepo import facts
from modelrepo.copying import compare, copy, opened
from modelrepo.errors import RepositoryError, VersionNotFound
from modelrepo.manifest import MANIFEST, Manifest
from modelrepo.pruning import drop, too_many
from modelrepo.pull import FORM, pull
from modelrepo.repository import Repository, engine_sets, read_or_none, replace
from modelrepo.signatures import (
    ENGINES_SIGNATURES,
    SIGNATURES,
    Signatures,
    Statement,
    TrustedKeys,
    generate,
    private_key,
    public_path,
    signed,
)
from modelrepo.store import Store

Source = Repository | Store


def main(arguments: list[str]) -> int:
    """Do as the arguments say; 0 on success, 1 with a message where it failed or a version is not whole, 2 for wrong arguments."""
    chosen = parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    do: Callable[[argparse.Namespace], int] = chosen.do
    try:
        return do(chosen)
    except RepositoryError as error:
        print(f"{chosen.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # of `| head`
        sys.stderr.close()
        return 0


def _list(chosen: argparse.Namespace) -> int:
    source = opened(chosen.repository)
    rows = [(name, source.versions(name)) for name in source.models()]
    if chosen.json:
        print(json.dumps(dict(rows)))
        return 0
    for name, versions in rows:
        manifest = _manifest(source, name, versions[-1])
        metric = f"{manifest.metric.name} {manifest.metric.value:g}"
        signers = _signers(source, name, versions[-1])
        bytes_ = facts.size(sum(file.size for file in manifest.files()))
        by = f", signed by {_short(signers)}" if signers else ""
        print(f"{name}: {', '.join(map(str, versions))}; the newest {manifest.family}, {metric}, {bytes_}{by}")
    return 0


def _show(chosen: argparse.Namespace) -> int:
    source = opened(chosen.repository)
    name, version = _one(source, chosen.version)
    text = source.manifest(name, version)
    if chosen.json:
        print(text.decode(), end="")
        return 0
    print(f"{name}:{version} in {source.shown}")
    _sections(facts.facts(Manifest.from_json(text, MANIFEST)))
    _sections([("signed by", list(_signers(source, name, version)) or ["nobody"])])
    return 0


def _diff(chosen: argparse.Namespace) -> int:
    source = opened(chosen.repository)
    before, after = (_manifest(source, *_one(source, each)) for each in (chosen.before, chosen.after))
    found = facts.differences(before, after)
    _sections(found)
    if not found:
        print("nothing differs")
    return 0


def _verify(chosen: argparse.Namespace) -> int:
    source = opened(chosen.repository)
    trusted = TrustedKeys(chosen.trusted_keys) if chosen.trusted_keys else None
    failures = 0
    for name, version in _several(source, chosen.versions):
        try:
            if isinstance(source, Repository):
                Repository(source.root).open(name, version)
            else:
                compare(source, name, version, _manifest(source, name, version))
            text = f"{name}:{version} is whole"
            if trusted:
                statement = Statement("version", name, version, source.manifest(name, version))
                text += f", signed by {_short(trusted.check(statement, _known(source, name, version)))}"
            print(text)
        except RepositoryError as error:
            failures += 1
            print(f"{name}:{version} fails: {error}", file=sys.stderr)
    return 1 if failures else 0


def _copy(chosen: argparse.Namespace) -> int:
    source, target = opened(chosen.repository), opened(chosen.target)
    versions = _several(source, chosen.versions)
    for name, version in versions:
        done = copy(source, name, version, target)
        print(f"{name}:{version} {'copied to' if done else 'is already in'} {target.shown}")
    if chosen.delete:
        _delete_others(target, set(versions))
    return 0


def _pull(chosen: argparse.Namespace) -> int:
    target = Repository(chosen.repository)
    names = pull(chosen.url, target)
    for name in names:
        print(name)
    if chosen.delete:
        _delete_others(target, {_named(name) for name in names})
    return 0


def _prune(chosen: argparse.Namespace) -> int:
    source = opened(chosen.repository)
    for name, version in too_many(source, chosen.keep):
        if chosen.dry_run:
            print(f"{name}:{version} would be removed, unless it is served here")
        else:
            _drop(source, name, version)
    return 0


def _sign(chosen: argparse.Namespace) -> int:
    source, key = opened(chosen.repository), private_key(chosen.key)
    for name, version in _several(source, chosen.versions):
        if isinstance(source, Repository):
            source.open(name, version)  # what is not whole is not signed
        else:
            compare(source, name, version, _manifest(source, name, version))
        made = signed(Statement("version", name, version, source.manifest(name, version)), key, _known(source, name, version))
        if isinstance(source, Store):
            source.sign(name, version, made.to_json())
        else:
            _write(source.path(name, version) / SIGNATURES, made)
            for folder, _, text in engine_sets(source.path(name, version)):
                path = folder / ENGINES_SIGNATURES
                before = Signatures.from_json(read_or_none(path), str(path))
                _write(path, signed(Statement("engines", name, version, text), key, before))
        print(f"{name}:{version} is signed by {made.signatures[0].key}")
    return 0


def _keygen(chosen: argparse.Namespace) -> int:
    key = generate(chosen.key)
    print(f"{key}: keep {chosen.key} secret, give {public_path(chosen.key)} to those who are to trust it")
    return 0


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    whole = argparse.ArgumentParser(
        prog="python -m modelrepo",
        description="Published versions. A REPOSITORY is a folder or a URL (s3, gs, az, https, hf).",
    )
    commands = whole.add_subparsers(dest="command", required=True)

    def command(name: str, do: Callable[[argparse.Namespace], int], help_: str, **options: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".", **options)
        made.set_defaults(do=do)
        return made

    def repository(to: argparse.ArgumentParser, name: str = "repository", text: str = "folder or URL") -> None:
        to.add_argument(name, metavar=name.upper(), help=text)

    def versions(to: argparse.ArgumentParser) -> None:
        to.add_argument("versions", metavar="NAME[:VERSION]", nargs="*", help="a model, or one version of it; left out, all")

    each = command("list", _list, "list models and their versions")
    repository(each)
    each.add_argument("--json", action="store_true", help="as JSON")
    each = command("show", _show, "say what a version is")
    repository(each)
    each.add_argument("version", metavar="NAME[:VERSION]", help="a model's newest version, or the one with this number")
    each.add_argument("--json", action="store_true", help="its manifest as it is")
    each = command("diff", _diff, "say what differs between two versions")
    repository(each)
    each.add_argument("before", metavar="NAME:VERSION")
    each.add_argument("after", metavar="NAME[:VERSION]")
    each = command("verify", _verify, "compare every file with its sha256, and signatures with trusted keys")
    repository(each)
    versions(each)
    each.add_argument("--trusted-keys", type=Path, metavar="PATH", help="public key, or folder of them: one must have signed")
    each = command("copy", _copy, "copy versions to another repository, whole or not at all")
    repository(each, text="where they are: folder or URL")
    repository(each, "target", "where they go: folder or URL")
    versions(each)
    each.add_argument("--delete", action="store_true", help="then remove from TARGET what was not copied and nobody serves here")
    each = command("prune", _prune, "remove old versions, but none that is served on this machine")
    repository(each)
    each.add_argument("--keep", type=int, required=True, metavar="N", help="newest versions of each model that stay, at least 1")
    each.add_argument("--dry-run", action="store_true", help="say what would be removed")
    each = command("keygen", _keygen, "make a pair of ed25519 keys to sign with")
    each.add_argument("key", type=Path, metavar="FILE", help="private key to make; the public one is FILE.pub")
    each = command("sign", _sign, "sign versions, after checking that they are whole")
    repository(each)
    versions(each)
    each.add_argument("--key", type=Path, required=True, metavar="FILE", help="private key (ed25519, PEM)")
    each = command("pull", _pull, "add the versions in an archive at a URL to a repository")
    each.add_argument("url", metavar="URL", help=FORM)
    each.add_argument("--repository", required=True, type=Path, help="folder to add them to; made where it is missing")
    each.add_argument("--delete", action="store_true", help="then remove what the archive has not and nobody serves here")
    return whole


def _named(text: str) -> tuple[str, int]:
    """Name and number of NAME:VERSION."""
    name, _, version = text.partition(":")
    if not version.isdecimal():
        raise VersionNotFound(f"{text!r} does not name a version: write NAME:VERSION, such as {name}:1")
    return name, int(version)


def _one(source: Source, text: str) -> tuple[str, int]:
    """The version that NAME or NAME:VERSION names. Raises ModelNotFound, VersionNotFound."""
    if ":" not in text:
        return text, source.versions(text)[-1]
    name, version = _named(text)
    if version not in source.versions(name):
        raise VersionNotFound(f"model {name!r} has no version {version} in {source.shown}; it has {source.versions(name)}")
    return name, version


def _several(source: Source, texts: list[str]) -> list[tuple[str, int]]:
    """Every version of the models named, and the versions named; all there are where nothing is named."""
    if not texts:
        texts = source.models()
        if not texts:
            raise RepositoryError(f"{source.shown} holds no models: publish one with `python -m export`")
    found = ([_one(source, text)] if ":" in text else [(text, version) for version in source.versions(text)] for text in texts)
    return [each for versions in found for each in versions]


def _manifest(source: Source, name: str, version: int) -> Manifest:
    return Manifest.from_json(source.manifest(name, version), f"{source.shown}/{name}/{version}/{MANIFEST}")


def _known(source: Source, name: str, version: int) -> Signatures:
    return Signatures.from_json(source.signatures(name, version), f"{source.shown}/{name}/{version}/{SIGNATURES}")


def _signers(source: Source, name: str, version: int) -> list[str]:
    return [signature.key for signature in _known(source, name, version).signatures]


def _short(keys: list[str]) -> str:
    return ", ".join(key[:16] for key in keys)


def _delete_others(target: Source, kept: set[tuple[str, int]]) -> None:
    if isinstance(target, Store):
        target.refresh()
    for name in target.models():
        for version in target.versions(name):
            if (name, version) not in kept:
                _drop(target, name, version)


def _drop(source: Source, name: str, version: int) -> None:
    print(f"{name}:{version} {'removed' if drop(source, name, version) else 'stays: it is served'}")


def _write(path: Path, signatures: Signatures) -> None:
    try:
        replace(path, signatures.to_json())
    except OSError as error:
        raise RepositoryError(f"{path} cannot be written ({error.strerror}): let the user who runs this write there") from None


def _sections(sections: list[facts.Section]) -> None:
    for heading, lines in sections:
        for number, line in enumerate(lines):
            print(f"  {heading if number == 0 else '':<14}{line}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
