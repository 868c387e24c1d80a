"""Files of a version from a store into a folder: by range, resumed where an earlier try broke off, compared with their sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from modelrepo.errors import CorruptVersion
from modelrepo.manifest import File, Manifest
from modelrepo.repository import digest
from modelrepo.staging import flush
from modelrepo.store import CHUNK, Store

Arrived = Callable[[int], None]
"""Called with the number of bytes that came; may raise to end the fetching, which can be resumed."""


def fetch(store: Store, name: str, version: int, manifest: Manifest, folder: Path, arrived: Arrived = lambda size: None) -> None:
    """Bring every file that the manifest names into `folder`, on the disk to stay; those that lie there and are whole are kept.

    Raises StoreError, CorruptVersion where the store holds other bytes than the manifest says, OSError where the disk fails.
    """
    for file in manifest.files():
        target = folder / file.path
        if target.exists():
            if digest(target) == file:
                continue
            target.unlink()
        part = folder / f".{file.path}.part"  # no file of a version begins with a dot
        if not _complete(store, name, version, file, part, arrived):
            _complete(store, name, version, file, part, arrived)  # what an earlier try left was of another file
        part.rename(target)
    flush(folder)


def _complete(store: Store, name: str, version: int, file: File, part: Path, arrived: Arrived) -> bool:
    """Add to `part` what it lacks; False where that comes to other bytes than the file's and it held some before.

    Raises CorruptVersion where they all came just now.
    """
    found = hashlib.sha256()
    with part.open("a+b", buffering=0) as stream:
        stream.seek(0)
        before = 0
        while chunk := stream.read(CHUNK):
            found.update(chunk)
            before += len(chunk)
        if before <= file.size:
            for chunk in store.chunks(name, version, file, before):
                stream.write(chunk)
                found.update(chunk)
                arrived(len(chunk))
    if found.hexdigest() == file.sha256:
        flush(part)
        return True
    part.unlink()
    if before:
        return False
    raise CorruptVersion(
        f"{store.shown}/{name}/{version}/{file.path} has sha256 {found.hexdigest()}, its record says {file.sha256}: "
        "copy the version there again"
    )
