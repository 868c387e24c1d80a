"""Versions from one repository to another, each a folder or a store's URL: whole or not at all, and never over another one."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from modelrepo.errors import CorruptVersion, RepositoryError, StoreError
from modelrepo.fetch import fetch
from modelrepo.manifest import ENGINES, MANIFEST, Manifest
from modelrepo.repository import ENGINES_FOLDER, Repository, engine_sets, verify
from modelrepo.signatures import ENGINES_SIGNATURES, SIGNATURES, Signatures
from modelrepo.staging import staging_folder
from modelrepo.store import Store, is_url


def opened(location: str) -> Repository | Store:
    """The repository in a folder, or behind a URL. Raises StoreError where there is no driver for it."""
    if location.startswith("file://"):
        return Repository(location.removeprefix("file://"))
    return Store(location) if is_url(location) else Repository(location)


def copy(source: Repository | Store, name: str, version: int, target: Repository | Store) -> bool:
    """Copy a version under its number; False where it is there already, to which signatures it lacks are added.

    Engines that were added later are copied from folder to folder only, as they belong to one kind of machine. Raises
    RepositoryError; readers of the target see nothing of the version then.
    """
    try:
        if isinstance(target, Store):
            with TemporaryDirectory() as temporary:
                return _upload(_gathered(source, name, version, Path(temporary)), name, version, target)
        model = target.path(name, version).parent
        model.mkdir(parents=True, exist_ok=True)
        with staging_folder(model) as temporary_folder:
            return target.add(name, version, _gathered(source, name, version, temporary_folder / str(version), linked=False))
    except OSError as error:
        raise RepositoryError(
            f"{name}:{version} cannot be copied to {target.shown} ({error.strerror or error}): free space, or give a writable place"
        ) from None


def _gathered(source: Repository | Store, name: str, version: int, folder: Path, linked: bool = True) -> Path:
    """The version in a folder here, each file checked: that of the source itself where it may be, otherwise `folder`."""
    text, signatures = source.manifest(name, version), source.signatures(name, version)
    manifest = Manifest.from_json(text, f"{source.shown}/{name}/{version}/{MANIFEST}")
    if isinstance(source, Repository) and linked:
        verify(source.path(name, version), manifest)
        return source.path(name, version)
    folder.mkdir(exist_ok=True)
    if isinstance(source, Repository):
        for file in manifest.files():
            shutil.copyfile(source.path(name, version) / file.path, folder / file.path)
        for path, added, _ in engine_sets(source.path(name, version)):
            beside = folder / ENGINES_FOLDER / path.name
            beside.mkdir(parents=True)
            for file_name in (ENGINES, *(engine.file.path for engine in added.engines)):
                shutil.copyfile(path / file_name, beside / file_name)
            if (path / ENGINES_SIGNATURES).exists():
                shutil.copyfile(path / ENGINES_SIGNATURES, beside / ENGINES_SIGNATURES)
        verify(folder, manifest)
    else:
        fetch(source, name, version, manifest, folder)
    (folder / MANIFEST).write_bytes(text)
    if signatures is not None:
        (folder / SIGNATURES).write_bytes(signatures)
    return folder


def _upload(folder: Path, name: str, version: int, store: Store) -> bool:
    """Store a version: its files first, compared with what was meant, then its signatures, then its manifest."""
    shown = f"{store.shown}/{name}/{version}"
    text = (folder / MANIFEST).read_bytes()
    signatures = (folder / SIGNATURES).read_bytes() if (folder / SIGNATURES).exists() else None
    store.refresh()
    if store.fingerprint(name, version):
        if store.manifest(name, version) != text:
            raise StoreError(f"{shown} is another version: give it a new number")
        known = Signatures.from_json(store.signatures(name, version), f"{shown}/{SIGNATURES}")
        joined = known.joined(Signatures.from_json(signatures, str(folder / SIGNATURES)))
        if joined != known:
            store.sign(name, version, joined.to_json())
        return False
    manifest = Manifest.from_json(text, str(folder))
    for file in manifest.files():
        store.write(name, version, file.path, folder / file.path)
    compare(store, name, version, manifest)
    if signatures is not None:
        store.sign(name, version, signatures)
    store.publish(name, version, text)
    if store.manifest(name, version) != text:
        raise CorruptVersion(f"{shown}/{MANIFEST} is not what was written: look at the store, and remove the version")
    return True


def compare(store: Store, name: str, version: int, manifest: Manifest) -> None:
    """Read every file of a version in a store, and compare it with its record. Raises CorruptVersion, StoreError."""
    for file in manifest.files():
        found = hashlib.sha256()
        for chunk in store.chunks(name, version, file):
            found.update(chunk)
        if found.hexdigest() != file.sha256:
            raise CorruptVersion(
                f"{store.shown}/{name}/{version}/{file.path} has sha256 {found.hexdigest()}, its record says {file.sha256}: "
                "restore the file or copy the version again"
            )
