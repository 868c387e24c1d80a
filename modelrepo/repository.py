"""The model repository on disk: `<root>/<model>/<version>/manifest.json` and the files it names.

Versions are positive integers and immutable, but that engines for another machine may be added, each set in a folder of its own
below `engines/`. Publishing writes into a hidden folder beside the target, flushes every file
to the disk, and renames: a reader sees a whole version or none, whenever the writer dies.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelrepo.errors import (
    CorruptVersion,
    ManifestError,
    ModelNotFound,
    RepositoryError,
    SignatureError,
    UntrustedVersion,
    VersionNotFound,
)
from modelrepo.manifest import ENGINES, MANIFEST, Artifact, Candidate, EngineSet, File, Manifest
from modelrepo.signatures import ENGINES_SIGNATURES, SIGNATURES, Signatures, Statement, TrustedKeys
from modelrepo.staging import STAGING, discard, flush, staging_folder
from modelrepo.tensors import Tensors

log = logging.getLogger("modelrepo.repository")

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
VERSION = re.compile(r"[1-9][0-9]{0,17}")
ENGINES_FOLDER = "engines"


def digest(path: Path) -> File:
    """The record of a file as it is now. Raises OSError where it cannot be read."""
    with path.open("rb") as stream:
        return File(path=path.name, sha256=hashlib.file_digest(stream, "sha256").hexdigest(), size=path.stat().st_size)


def write_goldens(path: Path, inputs: Tensors, outputs: Tensors) -> None:
    """Store golden rows as an .npz, in the form `ModelVersion.goldens` reads."""
    arrays = {f"input.{name}": array for name, array in inputs.items()}
    arrays |= {f"output.{name}": array for name, array in outputs.items()}
    np.savez(path, allow_pickle=False, **arrays)


@dataclass(frozen=True)
class ModelVersion:
    """A published version whose files were found whole."""

    name: str
    version: int
    path: Path
    manifest: Manifest
    engines: tuple[EngineSet, ...] = ()
    """Added since, on machines that serve it: see `add_engines`."""

    def ways(self) -> Iterator[tuple[Path, Artifact, Candidate]]:
        """Every way to serve it, in the order to try: (file, what it is, how to run it). Engines built on the spot come first."""
        for added in self.engines:
            for engine, candidate in zip(added.engines, added.candidates, strict=True):
                yield self.path / ENGINES_FOLDER / added.key / engine.file.path, engine, candidate
        for candidate in self.manifest.candidates:
            artifact = self.manifest.artifact(candidate)
            yield self.path / artifact.file.path, artifact, candidate

    def goldens(self) -> tuple[Tensors, Tensors]:
        """The golden rows: (inputs, outputs), each a dict of arrays [rows, …]. Raises CorruptVersion where they do not fit."""
        path = self.path / self.manifest.goldens.file.path
        inputs: Tensors = {}
        outputs: Tensors = {}
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                kind, _, name = key.partition(".")
                (inputs if kind == "input" else outputs)[name] = arrays[key]
        expected = {spec.name for spec in self.manifest.signature.outputs}
        try:
            rows, _ = self.manifest.signature.check(inputs)
        except SignatureError as error:
            raise CorruptVersion(f"{path} does not fit the signature ({error}): export again") from None
        if set(outputs) != expected or {rows, *(len(a) for a in outputs.values())} != {self.manifest.goldens.rows}:
            raise CorruptVersion(f"{path} does not hold {self.manifest.goldens.rows} rows of every input and output: export again")
        return inputs, outputs


class Staging:
    """A version being written: fill `path`, then `publish`."""

    def __init__(self, model: Path, path: Path) -> None:
        self.path = path
        self._model = model

    def publish(self, manifest: Manifest) -> int:
        """Make the staged files the model's next version and return its number.

        The manifest is written last. Raises CorruptVersion where the files are not exactly those it names, OSError where the
        disk fails. Either leaves no new version, but for a disk that fails to confirm the rename itself.
        """
        verify(self.path, manifest)
        if extra := {entry.name for entry in self.path.iterdir()} - {file.path for file in manifest.files()}:
            raise CorruptVersion(f"{self.path} holds {sorted(extra)}, which the manifest does not name")
        for file in manifest.files():
            flush(self.path / file.path)
        (self.path / MANIFEST).write_text(manifest.to_json())
        flush(self.path / MANIFEST)
        flush(self.path)
        while True:
            taken = (int(entry.name) for entry in self._model.iterdir() if VERSION.fullmatch(entry.name))
            version = max(taken, default=0) + 1
            try:
                self.path.rename(self._model / str(version))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue  # another exporter took this number between the look and the rename
            flush(self._model)
            return version


class Repository:
    """All models below one folder. With `trusted` keys, only what one of them signed can be opened."""

    def __init__(self, root: Path | str, trusted: TrustedKeys | None = None) -> None:
        self.root = Path(root)
        self._trusted = trusted

    @property
    def shown(self) -> str:
        """How messages name it."""
        return str(self.root)

    def models(self) -> list[str]:
        """Names of the models that have a version, sorted. Raises RepositoryError where the folder cannot be read."""
        try:
            entries = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        except OSError as error:
            raise RepositoryError(
                f"model repository {str(self.root)!r} cannot be read ({error.strerror}): "
                "give the folder that `python -m export` published to"
            ) from None
        return [name for name in entries if MODEL_NAME.fullmatch(name) and _versions(self.root / name)]

    def versions(self, name: str) -> list[int]:
        """Published versions of a model, ascending. Raises ModelNotFound."""
        found = _versions(self._model(name))
        if not found:
            raise ModelNotFound(f"model {name!r} is not in {str(self.root)!r}; it holds {self.models() or 'no models'}")
        return found

    def open(self, name: str, version: int | None = None) -> ModelVersion:
        """A version, the newest unless one is named, with every file checked against its recorded size and sha256.

        Raises ModelNotFound, VersionNotFound, ManifestError, UntrustedVersion or CorruptVersion.
        """
        versions = self.versions(name)
        chosen = versions[-1] if version is None else version
        if chosen not in versions:
            raise VersionNotFound(f"model {name!r} has no version {chosen}; it has {versions}")
        path = self.path(name, chosen)
        text = self.manifest(name, chosen)
        if self._trusted:
            self._trusted.check(Statement("version", name, chosen, text), _signatures(path / SIGNATURES))
        manifest = Manifest.from_json(text, str(path / MANIFEST))
        verify(path, manifest)
        return ModelVersion(name, chosen, path, manifest, tuple(self._engine_sets(name, chosen)))

    def path(self, name: str, version: int) -> Path:
        """The folder of a version, be it there or not. Raises ModelNotFound for what is no name."""
        return self._model(name) / str(version)

    def manifest(self, name: str, version: int) -> bytes:
        """The bytes of manifest.json. Raises VersionNotFound, ManifestError."""
        path = self.path(name, version)
        try:
            return (path / MANIFEST).read_bytes()
        except OSError as error:
            if not path.exists():
                raise VersionNotFound(f"model {name!r} has no version {version}; it has {self.versions(name)}") from None
            remedy = "export the model again" if isinstance(error, FileNotFoundError) else "let the user who runs this read it"
            raise ManifestError(f"{path / MANIFEST} cannot be read ({error.strerror}): {remedy}") from None

    def signatures(self, name: str, version: int) -> bytes | None:
        """The bytes of manifest.sig, None where the version is not signed. Raises RepositoryError."""
        return read_or_none(self.path(name, version) / SIGNATURES)

    def add(self, name: str, version: int, folder: Path) -> bool:
        """Put a version whose files were checked, in a folder on the same disk, under its number; the folder is gone afterwards.

        False where that version is there already; what it lacks of signatures it gets, and one that is damaged is replaced. Raises
        RepositoryError where another one has the number, OSError where the disk fails.
        """
        place = self.path(name, version)
        if place.exists():
            if read_or_none(place / MANIFEST) not in (None, (folder / MANIFEST).read_bytes()):
                raise RepositoryError(f"{name}:{version} is another version in {self.shown}: give it a new number")
            if self._is_whole(name, version):
                brought = _signatures(folder / SIGNATURES)
                known = _signatures(place / SIGNATURES)
                if (joined := known.joined(brought)) != known:
                    replace(place / SIGNATURES, joined.to_json())
                return False
            discard(place)
        for path in folder.rglob("*"):
            flush(path)
        flush(folder)
        place.parent.mkdir(exist_ok=True)
        folder.rename(place)
        flush(place.parent)
        flush(self.root)
        return True

    def _is_whole(self, name: str, version: int) -> bool:
        try:
            Repository(self.root).open(name, version)
        except RepositoryError as error:
            log.warning("%s: it is replaced", error)
            return False
        return True

    def _engine_sets(self, name: str, version: int) -> Iterator[EngineSet]:
        """Engines that were added to a version, each file checked, unless nobody trusted signed them. Raises CorruptVersion."""
        for folder, added, text in engine_sets(self.path(name, version)):
            if self._trusted:
                try:
                    self._trusted.check(Statement("engines", name, version, text), _signatures(folder / ENGINES_SIGNATURES))
                except UntrustedVersion as error:
                    log.warning("%s is not used: %s", folder, error)
                    continue
            yield added

    @contextmanager
    def stage(self, name: str) -> Iterator[Staging]:
        """A fresh folder to write the next version of a model into; gone when the block ends without a publish.

        Folders that killed writers left behind are removed on the way. Raises RepositoryError where nothing can be written.
        """
        model = self._model(name)
        with ExitStack() as stack:
            try:
                model.mkdir(parents=True, exist_ok=True)
                for folder in (self.root, self.root.parent):
                    flush(folder)
                path = stack.enter_context(staging_folder(model))
            except OSError as error:
                raise RepositoryError(
                    f"cannot publish {name!r} to {str(self.root)!r} ({error.strerror}): free space, or give a writable folder"
                ) from None
            yield Staging(model, path)

    def _model(self, name: str) -> Path:
        if not MODEL_NAME.fullmatch(name):
            raise ModelNotFound(f"{name!r} is not a model name: letters, digits, '.', '_' and '-', a letter or digit first")
        return self.root / name


def add_engines(version: ModelVersion, added: EngineSet, folder: Path) -> None:
    """Add engines, whose files lie in `folder`, to a published version: all of them or, whenever the writer dies, none.

    Of two writers of the same key the first one's stay. Raises RepositoryError where the version cannot be written to.
    """
    target = version.path / ENGINES_FOLDER / added.key
    try:
        target.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=STAGING, ignore_cleanup_errors=True) as temporary:
            staged = Path(temporary) / added.key
            staged.mkdir()
            for engine in added.engines:
                shutil.copyfile(folder / engine.file.path, staged / engine.file.path)
                flush(staged / engine.file.path)
            (staged / ENGINES).write_text(added.model_dump_json(indent=2) + "\n")
            flush(staged / ENGINES)
            flush(staged)
            try:
                staged.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            flush(target.parent)
    except OSError as error:
        raise RepositoryError(
            f"cannot add engines to {version.path} ({error.strerror}): free space, or give a writable folder"
        ) from None


def engine_sets(path: Path) -> Iterator[tuple[Path, EngineSet, bytes]]:
    """Engines that were added to a version, each file checked: (folder, engines, engines.json). Raises CorruptVersion."""
    for folder in sorted((path / ENGINES_FOLDER).glob("[!.]*")):
        try:
            text = (folder / ENGINES).read_bytes()
            added = EngineSet.model_validate_json(text)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CorruptVersion(f"{folder} holds no engines that were added whole ({reason}): remove that folder") from None
        _compare(folder, (engine.file for engine in added.engines), "remove that folder")
        yield folder, added, text


def read_or_none(path: Path) -> bytes | None:
    """A file's bytes, None where there is no such file. Raises RepositoryError where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RepositoryError(f"{path} cannot be read ({error.strerror}): let the user who runs this read it") from None


def replace(path: Path, content: bytes) -> None:
    """Write a file beside a version's others: readers see the old one or the new one. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=STAGING, delete=False) as temporary:
        staged = Path(temporary.name)
        try:
            temporary.write(content)
            temporary.flush()
            os.fsync(temporary.fileno())
            staged.chmod(0o644)
            staged.rename(path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
    flush(path.parent)


def _signatures(path: Path) -> Signatures:
    return Signatures.from_json(read_or_none(path), str(path))


def verify(path: Path, manifest: Manifest) -> None:
    """Compare every file of a version with its record. Raises CorruptVersion naming the first that differs."""
    _compare(path, manifest.files(), "restore the file or export again")


def _compare(path: Path, files: Iterable[File], remedy: str) -> None:
    for file in files:
        try:
            found = digest(path / file.path)
        except OSError as error:
            raise CorruptVersion(f"{path / file.path} cannot be read ({error.strerror}): {remedy}") from None
        for fact in ("size", "sha256"):
            if getattr(found, fact) != getattr(file, fact):
                raise CorruptVersion(
                    f"{path / file.path} has {fact} {getattr(found, fact)}, its record says {getattr(file, fact)}: {remedy}"
                )


def _versions(model: Path) -> list[int]:
    try:
        return sorted(int(entry.name) for entry in os.scandir(model) if VERSION.fullmatch(entry.name) and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise RepositoryError(f"{model} cannot be read ({error.strerror}): let the user who runs this read it") from None
