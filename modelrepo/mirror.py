"""Copies of a store's versions in a folder here: what a service serves from, also while the store is away.

    store -> manifest and its signature -> room in the folder -> files by hash, resumed -> rename -> a version like any other

The folder is a repository that `Repository` opens, bounded in bytes: to make room, the versions that served least recently go, and
never one that any process serves. Processes may share it. Per model and version there are

    <model>/<version>/             a whole copy
    <model>/.partial-<version>/    one that is being fetched, or was when its process died; the next one goes on with it
    <model>/.fetching-<version>    locked by who fetches it
    <model>/.serving-<version>     locked by all who serve it; its time is that of the last service
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modelrepo.errors import CacheFull, CorruptVersion, ManifestError, ModelNotFound, RepositoryError, StoreError, VersionNotFound
from modelrepo.fetch import fetch
from modelrepo.lease import Leases, unused
from modelrepo.manifest import MANIFEST, Manifest
from modelrepo.repository import VERSION, ModelVersion, Repository, read_or_none, replace, verify
from modelrepo.signatures import SIGNATURES, Signatures, Statement, TrustedKeys
from modelrepo.staging import discard, flush, sweep
from modelrepo.store import Store

log = logging.getLogger("modelrepo.mirror")

STORE = ".store"  # in the folder: the URL whose copies it holds
PARTIAL = re.compile(r"\.partial-([1-9][0-9]{0,17})")


@dataclass
class Traffic:
    """What was asked of the store, by `look` (at what there is) and `fetch` (of a version): how often, how long, how it ended."""

    bytes: int = 0
    succeeded: dict[str, int] = field(default_factory=lambda: {"look": 0, "fetch": 0})
    failed: dict[str, int] = field(default_factory=lambda: {"look": 0, "fetch": 0})
    seconds: dict[str, float] = field(default_factory=lambda: {"look": 0.0, "fetch": 0.0})
    last_success: float = 0.0  # Unix time

    @contextmanager
    def count(self, kind: str) -> Iterator[None]:
        """Count what is done in the block."""
        began = time.monotonic()
        try:
            yield
        except BaseException:
            self.failed[kind] += 1
            raise
        else:
            self.succeeded[kind] += 1
            self.last_success = time.time()
        finally:
            self.seconds[kind] += time.monotonic() - began


class Mirror:
    """The versions of a store, each copied to `folder` when it is opened. Its methods may be called from any thread."""

    def __init__(self, store: Store, folder: Path, most_bytes: int, trusted: TrustedKeys | None = None) -> None:
        """Raises RepositoryError where the folder cannot be used, or is not one of copies of this store."""
        self.store = store
        self.traffic = Traffic()
        self.outage = ""
        """Why the last look at the store failed; empty where it did not."""
        self._folder = folder
        self._most = most_bytes
        self._trusted = trusted
        self._copies = Repository(folder, trusted)
        self._leases = Leases()
        self._looked = False
        self._adopt()

    @property
    def shown(self) -> str:
        """How messages name it."""
        return self.store.shown

    def refresh(self) -> None:
        """Look at what the store has now. Where that fails, `outage` says why, and what was known before goes on to be."""
        try:
            with self.traffic.count("look"):
                self.store.refresh()
        except StoreError as error:
            self.outage = str(error)
        else:
            self.outage, self._looked = "", True

    def models(self) -> list[str]:
        """Names of the models that have a version, sorted: those of the last look at the store, or else of the copies.

        Raises StoreError where there is neither.
        """
        if self._looked:
            return self.store.models()
        if not (copied := self._copies.models()):
            raise StoreError(f"{self.outage or 'nothing was looked at'}; and {self._folder} holds no copies of it")
        return copied

    def versions(self, name: str) -> list[int]:
        """Published versions of a model, ascending, as `models` knows them. Raises ModelNotFound."""
        return (self.store if self._looked else self._copies).versions(name)

    def fingerprint(self, name: str, version: int) -> tuple[object, ...]:
        """Another one means that the version in the store has changed."""
        return self.store.fingerprint(name, version) if self._looked else ()

    def open(self, name: str, version: int) -> ModelVersion:
        """A version, copied here where it was not, with every file checked; it stays here until `retain` leaves it out.

        Raises StoreError where it is not here and cannot be had, CacheFull where there is no room for it, else what
        `Repository.open` raises.
        """
        place = self._copies.path(name, version)
        with self._writing(), self._turn(name, version):
            wanted = self._described(name, version, place)
            self._lease(name, version).touch()
            self._leases.hold(self._lease(name, version))
            try:
                if wanted is not None:
                    self._update(place, *wanted)
                return self._copies.open(name, version)
            except (ModelNotFound, VersionNotFound):
                if wanted is None:
                    raise StoreError(self.outage) from None
            except (CorruptVersion, ManifestError) as error:
                if wanted is None or not self._recycle(name, version):
                    raise
                log.warning("%s: it is fetched again", error)
            with self.traffic.count("fetch"):
                self._fetch(name, version, *wanted)
            return self._copies.open(name, version)

    def retain(self, used: set[tuple[str, int]]) -> None:
        """These versions are served still; others may go when there must be room."""
        for lease in self._leases.retain({self._lease(*each) for each in used}):
            os.utime(lease)

    # Fetching

    def _described(self, name: str, version: int, place: Path) -> tuple[bytes, bytes | None] | None:
        """Manifest and signatures as the store has them; None where it cannot be asked and there is a copy to do with.

        Raises StoreError, VersionNotFound, UntrustedVersion.
        """
        if self.outage:
            return None
        try:
            manifest, signatures = self.store.manifest(name, version), self.store.signatures(name, version)
        except StoreError as error:
            if not place.exists():
                raise
            log.warning("%s: the copy in %s is used", error, place)
            return None
        if self._trusted:
            known = Signatures.from_json(signatures, f"{self.shown}/{name}/{version}/{SIGNATURES}")
            self._trusted.check(Statement("version", name, version, manifest), known)
        return manifest, signatures

    def _update(self, place: Path, manifest: bytes, signatures: bytes | None) -> None:
        """Bring a copy up to what the store has: signatures that were added, or a version that was made anew under its number."""
        if not place.exists():
            return
        if read_or_none(place / MANIFEST) not in (manifest, None):
            log.warning("%s is another version in %s now: it is fetched again", place, self.shown)
            discard(place)
        elif signatures is not None and read_or_none(place / SIGNATURES) != signatures:
            replace(place / SIGNATURES, signatures)

    def _recycle(self, name: str, version: int) -> bool:
        """Make a damaged copy a partial one, of which what is whole is kept; False where only added engines are."""
        place, partial = self._copies.path(name, version), self._partial(name, version)
        try:
            verify(place, Manifest.from_json(self._copies.manifest(name, version), str(place)))
        except (CorruptVersion, ManifestError):
            if partial.exists():
                discard(partial)
            place.rename(partial)
            return True
        return False

    def _fetch(self, name: str, version: int, text: bytes, signatures: bytes | None) -> None:
        manifest = Manifest.from_json(text, f"{self.shown}/{name}/{version}/{MANIFEST}")
        partial, place = self._partial(name, version), self._copies.path(name, version)
        if partial.exists() and read_or_none(partial / MANIFEST) != text:
            discard(partial)  # of a version that was made anew
        size = _whole(manifest, text)
        with self._locked(self._folder / ".lock"):
            self._make_room(partial, size)
            partial.mkdir(exist_ok=True)
            (partial / MANIFEST).write_bytes(text)  # from now on its size counts
        if signatures is not None:
            (partial / SIGNATURES).write_bytes(signatures)
        log.info("fetching %s:%d from %s, %s", name, version, self.shown, _size(size))
        fetch(self.store, name, version, manifest, partial, self._arrived)
        for path in (MANIFEST, SIGNATURES):
            if (partial / path).exists():
                flush(partial / path)
        flush(partial)
        partial.rename(place)
        flush(place.parent)

    def _arrived(self, size: int) -> None:
        self.traffic.bytes += size

    # Room

    def _make_room(self, wanted: Path, size: int) -> None:
        """Remove what served least recently until `size` more bytes fit. Raises CacheFull where what is left is in use."""
        copies = {path: _bytes(path) for path in self._all_copies() if path != wanted}
        used = sum(copies.values())
        for path in sorted(copies, key=self._last_served):
            if used + size <= self._most:
                return
            if self._dropped(path):
                used -= copies[path]
        if used + size > self._most:
            raise CacheFull(
                f"{wanted.parent.name}:{_version(wanted)} needs {_size(size)}, and {_size(used)} of the {_size(self._most)} that "
                f"{self._folder} may hold are in use: raise --cache-bytes"
            )

    def _all_copies(self) -> Iterator[Path]:
        for model in self._folder.glob("[!.]*/"):
            for path in model.iterdir():
                if path.is_dir() and (VERSION.fullmatch(path.name) or PARTIAL.fullmatch(path.name)):
                    yield path

    def _dropped(self, path: Path) -> bool:
        """Remove a copy that nobody serves or fetches."""
        name, version = path.parent.name, _version(path)
        if not self._lease(name, version).exists():
            self._lease(name, version).touch()
        with ExitStack() as stack:
            for locked in (self._fetching(name, version), self._lease(name, version)):
                if not stack.enter_context(unused(locked)):
                    return False
            discard(path)
        log.info("%s:%d is dropped from %s, to make room", name, version, self._folder)
        return True

    def _last_served(self, path: Path) -> float:
        lease = self._lease(path.parent.name, _version(path))
        return (lease if lease.exists() else path).stat().st_mtime

    # The folder

    def _adopt(self) -> None:
        """Make the folder one of copies of this store, or see that it is. Raises RepositoryError."""
        with self._writing():
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._locked(self._folder / ".lock"):
                holds = read_or_none(self._folder / STORE)
                if holds is None and self._copies.models():
                    raise RepositoryError(
                        f"{self._folder} holds models that are no copies of a store, and copies come and go: give an empty folder"
                    )
                if holds is not None and holds != self.shown.encode():
                    raise RepositoryError(
                        f"{self._folder} holds copies of {holds.decode()}, not of {self.shown}: give another folder"
                    )
                (self._folder / STORE).write_text(self.shown)
                for model in self._folder.glob("[!.]*/"):
                    sweep(model)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RepositoryError(
                f"copies of {self.shown} cannot be kept in {str(self._folder)!r} ({error.strerror or error}): "
                "free space, or give a writable folder"
            ) from None

    @contextmanager
    def _turn(self, name: str, version: int) -> Iterator[None]:
        """Alone with a version, among all threads and processes."""
        self._copies.path(name, version).parent.mkdir(exist_ok=True)
        with self._locked(self._fetching(name, version)):
            yield

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _partial(self, name: str, version: int) -> Path:
        return self._folder / name / f".partial-{version}"

    def _fetching(self, name: str, version: int) -> Path:
        return self._folder / name / f".fetching-{version}"

    def _lease(self, name: str, version: int) -> Path:
        return self._folder / name / f".serving-{version}"


def _version(copy: Path) -> int:
    return int(copy.name.removeprefix(".partial-"))


def _bytes(copy: Path) -> int:
    """What a copy takes on the disk, one that is being fetched when it is whole."""
    found = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
    text = read_or_none(copy / MANIFEST)
    if not PARTIAL.fullmatch(copy.name) or text is None:
        return found
    try:
        return _whole(Manifest.from_json(text, str(copy)), text)
    except ManifestError:  # its process died over it
        return found


def _whole(manifest: Manifest, text: bytes) -> int:
    """Bytes of a version, its manifest among them."""
    return len(text) + sum(file.size for file in manifest.files())


def _size(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"
