"""Where rollouts are remembered: a file for each model, in a folder that outlives the process.

All workers of a service, and all services that share the folder, go by the same files: a step is taken under a lock, from what the
file says then, and written beside, flushed and renamed. Before that, the step is appended to `audit.jsonl` and flushed, so that no
step is missing there; one whose process died just then may stand there twice, with the same `seq`. Without a folder nothing
outlives the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec

from modelrepo.errors import QuartetError
from modelrepo.manifest import MANIFEST
from modelrepo.staging import flush
from service.rollout import state as states
from service.rollout.plan import Rules
from service.rollout.state import ANY, State
from service.versions import VersionPolicy

log = logging.getLogger("quartet.rollout")
audit = logging.getLogger("quartet.audit")

AUDIT = "audit.jsonl"


class MemoryFault(QuartetError):
    """The folder of rollouts cannot be used."""


@dataclass(frozen=True)
class Note:
    """What the audit log says of a step besides its states."""

    step: str
    by: str
    reason: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)


class Memory:
    """The states of all models, and what follows from them for the versions that are to serve.

    `change` and `refresh` may wait for a disk, and are for threads; all else looks at what they found.
    """

    def __init__(
        self, repository: Path, versions: VersionPolicy, rules: Rules, folder: Path | None = None, lasting: bool = False
    ) -> None:
        """`lasting` says that the folder outlives the service. Raises MemoryFault."""
        self.rules = rules
        self._repository = repository
        self._versions = versions
        self._folder = folder
        self._lasting = lasting
        self._states: dict[str, State] = {}
        self._lock = Lock()
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with self._locked():
                    pass
            except OSError as error:
                raise _unusable(folder, error) from None
            self.refresh()

    # States

    def models(self) -> list[str]:
        """Names of the models that there is something to remember of."""
        return sorted(self._states)

    def state(self, model: str) -> State:
        """What was last read or written of a model."""
        return self._states.get(model) or self._ruled(model, State())

    def survives(self, model: str) -> bool:
        """Whether a service that starts again serves the proven version of a model, and no other, to requests that name none."""
        return self._lasting or self._versions.named(model) is not None

    def refresh(self) -> set[str]:
        """Read what others wrote; the models of which it is new. Raises MemoryFault for a file that is damaged."""
        if self._folder is None:
            return set()
        try:
            found = {path.stem: self._read(path.stem) for path in self._folder.glob("*.json")}
        except OSError as error:
            raise _unusable(self._folder, error) from None
        new = {model for model, state in found.items() if self._states.get(model) != state}
        self._states.update({model: found[model] for model in new})
        return new

    def change(self, model: str, step: Callable[[State], State], note: Note) -> State:
        """Take a step from what the file says now. Raises what `step` raises, and MemoryFault; then nothing has changed.

        A step that returns the state it was given is none, and leaves no trace.
        """
        with self._locked():
            before = self.state(model) if self._folder is None else self._read(model)
            after = step(before)
            if after is not before:
                line = json.dumps(_line(model, before, after, note), allow_nan=False)
                audit.info("%s", line)
                try:
                    self._write(model, line, after)
                except OSError as error:
                    assert self._folder is not None
                    raise _unusable(self._folder, error) from None
            self._states[model] = after
        return after

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One step at a time, of all threads, workers and services."""
        with self._lock:
            if self._folder is None:
                yield
                return
            descriptor = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)

    def _read(self, model: str) -> State:
        assert self._folder is not None
        path = self._folder / f"{model}.json"
        try:
            return self._ruled(model, states.read(path.read_bytes()))
        except FileNotFoundError:
            return self._ruled(model, State())
        except ValueError as error:
            raise MemoryFault(
                f"{path} cannot be understood ({error}): restore it, or remove it; then the newest version of {model!r} begins as "
                "one that nobody has proven"
            ) from None

    def _write(self, model: str, line: str, state: State) -> None:
        if self._folder is None:
            return
        with (self._folder / AUDIT).open("a") as stream:
            stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        path, beside = self._folder / f"{model}.json", self._folder / f".{model}.new"
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(state)) + b"\n")
        flush(beside)
        beside.rename(path)
        flush(self._folder)

    def _ruled(self, model: str, state: State) -> State:
        return states.under_rule(state, self._versions.of(model), self._versions.named(model))

    # What follows for the versions that are to serve

    def wanted(self, model: str, published: list[int]) -> list[int]:
        """Those of the published versions, ascending, that are to serve, the newest of them requests that name none."""
        settled = self._settled(model, published)
        chosen = self._versions.choose(model, settled)
        promoted = self.state(model).stable
        if promoted in settled and (not chosen or promoted > chosen[-1]):
            chosen = [*chosen, promoted]
        return chosen

    def stand_ins(self, model: str, published: list[int]) -> list[int] | None:
        """As `VersionPolicy.stand_ins`, of those that nobody has to prove any more."""
        return self._versions.stand_ins(model, self._settled(model, published))

    def newer(self, model: str, published: list[int]) -> list[int]:
        """The published versions, ascending, that have yet to go through a rollout."""
        live = self._live(model, published)
        return [version for version in live if version > self._boundary(model, live)]

    def digest(self, model: str, version: int) -> str:
        """The sha256 of a version's manifest; ANY where it cannot be read."""
        try:
            return hashlib.sha256((self._repository / model / str(version) / MANIFEST).read_bytes()).hexdigest()
        except OSError:
            return ANY

    def _settled(self, model: str, published: list[int]) -> list[int]:
        """Versions that may serve at once: without a rollout or a rule for one, all that were not rejected."""
        live = self._live(model, published)
        if not live or (self.state(model).rollout is None and self.rules.of(model) is None):
            return live
        boundary = self._boundary(model, live)
        settled = [version for version in live if version <= boundary]
        if not settled:
            log.warning("%s: version %d, which served, is gone from the repository: %d serves", model, boundary, live[0])
        return settled or live[:1]

    def _live(self, model: str, published: list[int]) -> list[int]:
        rejected = self.state(model).rejected
        return [version for version in published if not self._rejected(model, version, rejected.get(str(version)))]

    def _rejected(self, model: str, version: int, digest: str | None) -> bool:
        """Whether a version is the one that was rolled back, with this digest; also where what it is now cannot be read."""
        return digest is not None and (digest == ANY or self.digest(model, version) in (ANY, digest))

    def _boundary(self, model: str, live: list[int]) -> int:
        """The newest proven version. Where nothing is remembered: the newest that is named by `--versions`, else the one before
        the newest, as it is the newest that nobody may have proven."""
        stable = self.state(model).stable
        if stable is not None:
            return stable
        named = [version for version in self._versions.named(model) or () if version in live]
        return named[-1] if named else live[-2] if len(live) > 1 else live[-1]


def _line(model: str, before: State, after: State, note: Note) -> dict[str, Any]:
    under_way, ending = after.rollout, after.ending
    candidate = under_way.candidate if under_way is not None else ending.candidate if ending is not None else None
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "model": model,
        "seq": after.seq,
        "step": note.step,
        "by": note.by,
        "reason": note.reason,
        "candidate": candidate,
        "stable": after.stable,
        "from": before.phase,
        "to": after.phase,
        "numbers": note.numbers,
    }


def _unusable(folder: Path, error: OSError) -> MemoryFault:
    return MemoryFault(
        f"rollouts cannot be remembered in {str(folder)!r} ({error.strerror}): give --rollout-state a writable folder"
    )
