"""A model repository behind a URL: an object store, a web server or anything else that fsspec has a driver for.

The layout is that of a folder, `<url>/<model>/<version>/manifest.json` and the files it names. Stores cannot rename: a version is
there once its manifest is, which is therefore written last and removed first. Credentials and endpoints are found by the driver,
as the store's own tools find them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN, …) or as
fsspec does (FSSPEC_S3_ENDPOINT_URL).
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from modelrepo.errors import CorruptVersion, ModelNotFound, StoreError, VersionNotFound
from modelrepo.manifest import MANIFEST, File
from modelrepo.repository import MODEL_NAME, VERSION
from modelrepo.signatures import SIGNATURES

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

log = logging.getLogger("modelrepo.store")

CHUNK = 8 << 20  # bytes asked for at once: what is lost when a connection breaks
SMALL = 32 << 20  # most that a manifest may have
LOOK_SECONDS = 30.0
READ_SECONDS = 60.0  # for one chunk
PAUSES = (0.2, 1.0)  # seconds before a second and a third try; drivers make tries of their own
EXCLUSIVE = {"s3", "s3a", "gs", "gcs", "memory"}  # stores that write an object only where there is none, if asked
FLAT = {"s3", "s3a", "gs", "gcs", "az", "abfs"}  # stores that list all objects at once, where others list folder by folder
READ_ONLY = {"http", "https"}
DRIVERS = "pip install 'quartet[remote]' for s3 and https; fsspec and gcsfs for gs, adlfs for az, huggingface_hub for hf"


def is_url(location: str) -> bool:
    """Whether a repository is named by a URL rather than by the path of a folder."""
    return "://" in location


class Store:
    """All models below a URL. `shown` is the URL without a password, for messages."""

    def __init__(self, url: str) -> None:
        """Raises StoreError where there is no driver for such a URL. Nothing is asked of the store yet."""
        parts = urlsplit(url)
        self.shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
        if parts.query or parts.fragment:
            raise StoreError(f"{self.shown} has a query or a fragment: give the folder's URL, and credentials by environment")
        self._scheme = parts.scheme
        self._filesystem, root = _open(url, self.shown)
        self._root = root.rstrip("/")
        self._found: dict[str, dict[int, dict[str, object]]] | None = None

    # Reading

    def refresh(self) -> None:
        """Look at what there is now; until the next look, `models` and `versions` tell of this one. Raises StoreError."""
        self._filesystem.invalidate_cache()
        found: dict[str, dict[int, dict[str, object]]] = defaultdict(lambda: defaultdict(dict))
        try:
            for path, facts in self._everything():
                name, version, file = path.removeprefix(self._root + "/").split("/")
                if MODEL_NAME.fullmatch(name) and VERSION.fullmatch(version):
                    found[name][int(version)][file] = _stamp(facts)
        except FileNotFoundError as error:
            raise StoreError(f"{self.shown} is not there ({error}): check the address") from None
        whole = {
            name: {version: names for version, names in versions.items() if MANIFEST in names} for name, versions in found.items()
        }
        self._found = {name: versions for name, versions in whole.items() if versions}

    def models(self) -> list[str]:
        """Names of the models that have a version, sorted. Raises StoreError."""
        return sorted(self._listed())

    def versions(self, name: str) -> list[int]:
        """Published versions of a model, ascending. Raises ModelNotFound, StoreError."""
        if name not in self._listed():
            raise ModelNotFound(f"model {name!r} is not in {self.shown}; it holds {self.models() or 'no models'}")
        return sorted(self._listed()[name])

    def fingerprint(self, name: str, version: int) -> tuple[object, ...]:
        """What a version looked like from outside: name, size and what else the store tells, of each file."""
        return tuple(sorted((file, stamp) for file, stamp in self._listed().get(name, {}).get(version, {}).items()))

    def manifest(self, name: str, version: int) -> bytes:
        """The bytes of manifest.json. Raises VersionNotFound, StoreError."""
        found = self._small(name, version, MANIFEST)
        if found is None:
            raise VersionNotFound(f"{self.shown}/{name}/{version} holds no {MANIFEST}: it is no version, or was removed")
        return found

    def signatures(self, name: str, version: int) -> bytes | None:
        """The bytes of manifest.sig, None where the version is not signed. Raises StoreError."""
        return self._small(name, version, SIGNATURES)

    def chunks(self, name: str, version: int, file: File, start: int = 0) -> Iterator[bytes]:
        """A file's bytes from `start` to the size that its record says. Raises CorruptVersion, StoreError."""
        path = self._path(name, version, file.path)
        shown = f"{self.shown}/{name}/{version}/{file.path}"
        while start < file.size:
            end = min(start + CHUNK, file.size)
            try:
                found: bytes = self._call("cat_file", path, start=start, end=end, what=shown)
            except FileNotFoundError:
                raise CorruptVersion(f"{shown} is missing: copy the version there again") from None
            if start and len(found) == file.size:  # a web server that knows no ranges sends the whole file
                found = found[start:]
            if len(found) not in (end - start, file.size - start):
                raise CorruptVersion(f"{shown} has another size than the {file.size} bytes of its record: copy the version again")
            yield found
            start += len(found)

    # Writing

    def write(self, name: str, version: int, file: str, source: Path) -> None:
        """Store a file. Raises StoreError."""
        self._writable()
        target = self._path(name, version, file)
        try:
            self._call("put_file", str(source), target, limit=None, what=f"{self.shown}/{name}/{version}/{file}")
        except FileNotFoundError as error:  # of a bucket that is not there
            raise StoreError(f"{self.shown} cannot be written ({error}): make it first") from None

    def publish(self, name: str, version: int, manifest: bytes) -> None:
        """Store the manifest, with which the version is there. Raises StoreError, also where another was quicker."""
        self._writable()
        how: dict[str, Any] = {"mode": "create"} if self._scheme in EXCLUSIVE else {}
        path = self._path(name, version, MANIFEST)
        try:
            self._call("pipe_file", path, manifest, what=f"{self.shown}/{name}/{version}/{MANIFEST}", **how)
        except FileExistsError:
            raise StoreError(f"{self.shown}/{name}/{version} was published by another just now: use another number") from None

    def sign(self, name: str, version: int, signatures: bytes) -> None:
        """Store manifest.sig in place of what was there. Raises StoreError."""
        self._writable()
        self._call("pipe_file", self._path(name, version, SIGNATURES), signatures, what=f"{self.shown}/{name}/{version}")

    def remove(self, name: str, version: int) -> None:
        """Remove a version, its manifest first. Raises StoreError."""
        self._writable()
        shown = f"{self.shown}/{name}/{version}"
        self._call("rm_file", self._path(name, version, MANIFEST), what=shown)
        self._filesystem.invalidate_cache()
        self._call("rm", f"{self._root}/{name}/{version}", recursive=True, what=shown)

    def _everything(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Path and facts of every file at the depth of a version's. Raises FileNotFoundError, StoreError."""
        if self._scheme in FLAT:
            files = self._call("find", self._root, detail=True, limit=LOOK_SECONDS, patient=False, what=self.shown)
            yield from ((path, facts) for path, facts in files.items() if path.removeprefix(self._root).count("/") == 3)
            return
        # A driver's own walk takes a folder that cannot be listed for an empty one.
        folders = [self._root]
        for depth in range(3):
            listed = [
                facts
                for folder in folders
                for facts in self._call("ls", folder, detail=True, limit=LOOK_SECONDS, patient=False, what=self.shown)
            ]
            folders = [facts["name"].rstrip("/") for facts in listed if facts["type"] == "directory" and depth < 2]
            folders = [folder for folder in folders if (VERSION if depth else MODEL_NAME).fullmatch(folder.rpartition("/")[2])]
        yield from ((facts["name"], facts) for facts in listed if facts["type"] == "file")

    def _listed(self) -> dict[str, dict[int, dict[str, object]]]:
        if self._found is None:
            self.refresh()
        assert self._found is not None
        return self._found

    def _small(self, name: str, version: int, file: str) -> bytes | None:
        try:
            found: bytes = self._call(
                "cat_file", self._path(name, version, file), start=0, end=SMALL, what=f"{self.shown}/{name}/{version}/{file}"
            )
        except FileNotFoundError:
            return None
        return found

    def _path(self, name: str, version: int, file: str) -> str:
        return f"{self._root}/{name}/{version}/{file}"

    def _writable(self) -> None:
        if self._scheme in READ_ONLY:
            raise StoreError(f"{self.shown} can only be read: copy to an object store or a folder")

    def _call(
        self,
        method: str,
        *arguments: Any,
        what: str,
        limit: float | None = READ_SECONDS,
        patient: bool = True,
        **named: Any,
    ) -> Any:
        """A method of the driver, tried again where that may help. Raises FileNotFoundError, FileExistsError and StoreError."""
        for pause in (*(PAUSES if patient else ()), None):
            try:
                return self._once(method, arguments, named, limit)
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:  # noqa: BLE001 - drivers raise what they like
                if pause is None or isinstance(error, PermissionError | TimeoutError):
                    reason = str(error).strip() or type(error).__name__
                    raise StoreError(
                        f"{what} cannot be used ({reason}): check the address, the credentials and the network"
                    ) from None
                log.debug("%s: %s, once more in %g s", what, error, pause)
                time.sleep(pause)

    def _once(self, method: str, arguments: tuple[Any, ...], named: dict[str, Any], limit: float | None) -> Any:
        """Most drivers are asynchronous, and of those none runs longer than `limit` seconds."""
        from fsspec import asyn

        driver = self._filesystem
        if isinstance(driver, asyn.AsyncFileSystem):
            return asyn.sync(driver.loop, getattr(driver, f"_{method}"), *arguments, timeout=limit, **named)
        return getattr(driver, method)(*arguments, **named)


def _open(url: str, shown: str) -> tuple[AbstractFileSystem, str]:
    try:
        from fsspec.core import url_to_fs

        options: dict[str, Any] = {"skip_instance_cache": True}
        if url.startswith("file:"):
            options["auto_mkdir"] = True
        filesystem, root = url_to_fs(url, **options)
    except ImportError as error:
        raise StoreError(f"{shown} needs a driver that is not installed ({error}): {DRIVERS}") from None
    except Exception as error:  # noqa: BLE001 - drivers raise what they like
        raise StoreError(f"{shown} cannot be used ({error}): give s3://, gs://, az://, https://, hf:// or a folder") from None
    return filesystem, str(root)


def _stamp(facts: dict[str, Any]) -> tuple[str, ...]:
    """What tells one content of a file from another, as far as the store says."""
    return tuple(str(facts.get(key)) for key in ("size", "ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified"))
