"""Versions in an archive at some URL, brought into a repository: `NAME/VERSION/…`, as `tar -czf FILE -C models .` makes it.

    url -> fetch -> archive whose sha256 is right -> unpack -> versions whose files are whole -> rename

Nothing is seen by readers before the last step. The archive may be a tar, compressed or not, or a zip.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import logging
import lzma
import os
import re
import shutil
import stat
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import URLError
from urllib.parse import urlsplit

from modelrepo.errors import RepositoryError
from modelrepo.manifest import MANIFEST
from modelrepo.repository import MODEL_NAME, VERSION, ModelVersion, Repository, read_or_none
from modelrepo.staging import flush, staging_folder

log = logging.getLogger("modelrepo.pull")

SILENCE = 30.0  # seconds without a byte after which the server counts as gone
CHUNK = 1 << 20
Members = Generator[tuple[str, IO[bytes] | None], None, None]
UNREADABLE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    FileExistsError,  # a file twice
    NotImplementedError,  # a zip's rarer compressions
    RuntimeError,  # a zip with a password
)
AUTHORIZATION = "PULL_AUTHORIZATION"  # environment variable: the header that the server wants to see, such as `Bearer …`
FORM = "https://HOST/models.tar.gz#sha256=HEX, with the 64 digits that sha256sum prints"


class PullFailed(RepositoryError):
    """An archive that cannot be fetched, is not the one that was meant, or does not hold whole versions."""


def pull(url: str, repository: Repository) -> list[str]:
    """Add the versions in the archive at `url`, which ends in `#sha256=HEX`; returns `name:version` of each, new or not.

    Where this archive was pulled before and its versions are still there, nothing is fetched. Raises PullFailed, or
    RepositoryError where the repository cannot be written; no version of the archive is added then.
    """
    parts = urlsplit(url)
    named = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", parts.fragment)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # without what is secret: a password, a signed query
    if parts.scheme not in ("https", "http") or not parts.hostname or not named:
        raise PullFailed(f"{shown} does not say what to pull: write {FORM}")
    sha256 = named[1].lower()
    record = repository.root / f".pulled-{sha256}"
    if (already := _still_there(record, repository)) is not None:
        log.info("%s: pulled before, %s", shown, ", ".join(already))
        return already
    with ExitStack() as stack:
        try:
            repository.root.mkdir(parents=True, exist_ok=True)
            staging = stack.enter_context(staging_folder(repository.root))
            _fetch(parts._replace(fragment="").geturl(), sha256, staging / "archive", shown)
            _unpack(staging / "archive", staging / "models", shown)
            names = _move(_whole_versions(staging / "models", shown), repository, shown)
            (staging / "record").write_text("\n".join(names))
            flush(staging / "record")
            (staging / "record").rename(record)
        except OSError as error:
            remedy = "free space, or give a writable folder"
            raise RepositoryError(
                f"cannot pull {shown} into {str(repository.root)!r} ({error.strerror or error}): {remedy}"
            ) from None
    log.info("%s: pulled %s", shown, ", ".join(names))
    return names


def _still_there(record: Path, repository: Repository) -> list[str] | None:
    """What an earlier pull of the same archive brought, None where there was none or something of it is gone or damaged."""
    try:
        names = record.read_text().split()
    except OSError:  # then the pull itself says what is wrong with the folder
        return None
    try:
        for name, _, version in (name.partition(":") for name in names):
            Repository(repository.root).open(name, int(version))
    except RepositoryError as error:
        log.warning("pulling again: %s", error)
        return None
    return names


def _fetch(url: str, sha256: str, target: Path, shown: str) -> None:
    """Download to a file. Raises PullFailed, and OSError where the disk fails."""
    found = hashlib.sha256()
    try:
        request = urllib.request.Request(url)
        if AUTHORIZATION in os.environ:
            request.add_unredirected_header("Authorization", os.environ[AUTHORIZATION])  # it is no business of another server
        response = urllib.request.urlopen(request, timeout=SILENCE)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise PullFailed(
            f"{shown} cannot be fetched ({_told(error)}): check the address, and that this machine reaches it"
        ) from None
    with response, target.open("wb") as file:
        size = 0
        for chunk in _chunks(response, shown):
            found.update(chunk)
            size += file.write(chunk)
    expected = response.headers.get("Content-Length")
    if expected is not None and size != int(expected):
        raise PullFailed(f"{shown} broke off after {size} of {expected} bytes: try again")
    if found.hexdigest() != sha256:
        raise PullFailed(
            f"{shown} has sha256 {found.hexdigest()}, not {sha256}: it is not the archive that was meant, or was altered"
        )


def _chunks(response: http.client.HTTPResponse, shown: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise PullFailed(f"{shown} broke off ({_told(error)}): try again") from None
        if not chunk:
            return
        yield chunk


def _told(error: Exception) -> str:
    return str(error.reason if type(error) is URLError else error) or type(error).__name__


def _unpack(archive: Path, target: Path, shown: str) -> None:
    """Write an archive's files below `target`, and nothing anywhere else. Raises PullFailed, and OSError where the disk fails."""
    target.mkdir()
    # A tar that ends in an .npz would pass for a zip, no zip for a tar.
    members = _tarred if tarfile.is_tarfile(archive) else _zipped
    try:
        with closing(members(archive)) as found:
            for name, content in found:
                path = PurePosixPath(name)
                if content is None or path.is_absolute() or ".." in path.parts:
                    raise PullFailed(f"{shown} holds {name!r}, which is no file below NAME/VERSION/: pack folders and files only")
                if any(part.startswith(".") for part in path.parts[:2]):
                    continue  # what a repository does not look at either
                if len(path.parts) < 3 or not MODEL_NAME.fullmatch(path.parts[0]) or not VERSION.fullmatch(path.parts[1]):
                    raise PullFailed(
                        f"{shown} holds {name!r}, which is not below NAME/VERSION/: pack with `tar -czf FILE -C models .`"
                    )
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                with content, (target / path).open("xb") as file:
                    shutil.copyfileobj(content, file, CHUNK)
    except UNREADABLE as error:
        raise PullFailed(f"{shown} cannot be unpacked ({error}): make it again with `tar -czf FILE -C models .`") from None


def _tarred(archive: Path) -> Members:
    """Name and content of everything but folders; no content for links, devices and the like."""
    with tarfile.open(archive) as opened:
        for member in opened:
            if not member.isdir():
                yield member.name, opened.extractfile(member) if member.isreg() else None


def _zipped(archive: Path) -> Members:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if not member.is_dir():
                kind = stat.S_IFMT(member.external_attr >> 16)
                yield member.filename, opened.open(member) if kind in (0, stat.S_IFREG) else None


def _whole_versions(models: Path, shown: str) -> list[ModelVersion]:
    """What was unpacked, each file checked. Raises PullFailed where there is nothing, or something damaged."""
    unpacked = Repository(models)
    try:
        found = [unpacked.open(name, version) for name in unpacked.models() for version in unpacked.versions(name)]
    except RepositoryError as error:
        raise PullFailed(f"{shown} does not hold whole versions ({error})") from None
    if not found:
        raise PullFailed(f"{shown} holds no NAME/VERSION/{MANIFEST}: pack with `tar -czf FILE -C models .`")
    return found


def _move(versions: list[ModelVersion], repository: Repository, shown: str) -> list[str]:
    """Put versions at their places, on the disk to stay. Raises PullFailed where one's place is taken by another."""
    for version in versions:
        place = repository.path(version.name, version.version)
        if read_or_none(place / MANIFEST) not in (None, (version.path / MANIFEST).read_bytes()):
            raise PullFailed(f"{shown} holds {version.name}:{version.version}, but {place} is another: give it a new number")
    for version in versions:
        repository.add(version.name, version.version, version.path)
    return [f"{version.name}:{version.version}" for version in versions]
