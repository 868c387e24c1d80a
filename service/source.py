"""Where published versions come from: a folder, or a remote store of which copies are kept here."""

from __future__ import annotations

from pathlib import Path

from modelrepo.errors import RepositoryError, VersionNotFound
from modelrepo.lease import Leases
from modelrepo.mirror import Mirror
from modelrepo.repository import ModelVersion, Repository
from modelrepo.signatures import TrustedKeys
from modelrepo.store import Store, is_url
from service.settings import Settings


class Folder:
    """A repository on a disk. Other programs change it at any time, so nothing is remembered of it; see `Mirror`."""

    outage = ""

    def __init__(self, root: str, trusted: TrustedKeys | None) -> None:
        self._repository = Repository(root, trusted)
        self._leases = Leases()
        self.shown = root
        self.models = self._repository.models
        self.versions = self._repository.versions

    def refresh(self) -> None:
        """Nothing: every look is at the disk."""

    def open(self, name: str, version: int) -> ModelVersion:
        """A version, each file checked, which nobody on this machine prunes until `retain` lets it. Raises RepositoryError."""
        folder = self._repository.path(name, version)
        try:
            there = self._leases.hold(folder)
        except OSError as error:
            raise RepositoryError(f"{folder} cannot be read ({error.strerror}): let the user who runs this read it") from None
        if not there:
            raise VersionNotFound(f"model {name!r} has no version {version} any more; it has {self.versions(name)}")
        return self._repository.open(name, version)

    def fingerprint(self, name: str, version: int) -> tuple[object, ...]:
        """What a version's folder looks like from outside: a name, size and time for each file."""
        folder = self._repository.path(name, version)
        try:
            return tuple(sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")))
        except OSError:  # it is being changed at this moment
            return ()

    def retain(self, used: set[tuple[str, int]]) -> None:
        """These versions are served still."""
        self._leases.retain({self._repository.path(*each) for each in used})


def source(settings: Settings) -> Folder | Mirror:
    """What the settings name. Raises RepositoryError where it, its copies or the trusted keys cannot be used."""
    trusted = TrustedKeys(Path(settings.trusted_keys)) if settings.trusted_keys else None
    if not is_url(settings.repository):
        return Folder(settings.repository, trusted)
    return Mirror(Store(settings.repository), Path(settings.cache), settings.cache_bytes, trusted)
