"""Removing versions that are not needed any more, and none that anybody serves on this machine."""

from __future__ import annotations

from modelrepo.errors import RepositoryError
from modelrepo.lease import unused
from modelrepo.repository import Repository
from modelrepo.staging import discard
from modelrepo.store import Store


def too_many(repository: Repository | Store, keep: int) -> list[tuple[str, int]]:
    """All versions but the `keep` newest of each model, by name and number. `keep` is at least 1."""
    if keep < 1:
        raise RepositoryError(f"of each model at least 1 version is kept, not {keep}")
    return [(name, version) for name in repository.models() for version in repository.versions(name)[:-keep]]


def drop(repository: Repository | Store, name: str, version: int) -> bool:
    """Remove a version; False where a server on this machine uses it. Readers see it whole or not at all.

    Servers of a remote store have copies of their own and do not mind. Raises RepositoryError where it cannot be removed.
    """
    if isinstance(repository, Store):
        repository.remove(name, version)
        return True
    place = repository.path(name, version)
    try:
        with unused(place) as free:
            if free:
                discard(place)
            return free
    except OSError as error:
        raise RepositoryError(f"{place} cannot be removed ({error.strerror}): let the user who runs this write there") from None
