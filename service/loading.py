"""From a published version to a session that has proven itself on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modelrepo.manifest import Artifact, Candidate, Manifest
from modelrepo.repository import ModelVersion
from modelrepo.tensors import Tensors
from runtime import cuda, goldens
from runtime.goldens import GoldenMismatch
from runtime.machine import cores, machine
from runtime.open import open_session
from runtime.session import Session, SessionError
from service.batching import INLINE_SECONDS
from service.codec.reader import Reader
from service.settings import Settings

log = logging.getLogger("quartet.loading")

MOST_SESSIONS = 4  # of a model by default, however many cores there are: each holds the model's weights
LEAST_SESSIONS = 2  # in each of several workers, where few connections may all have come to one, beside which cores would idle

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Skipped:
    """Why a way to serve was passed over.

    `golden`: it answered differently; `no_gpu`: it needs a GPU and the machine has none, which is as it should be; `session`: it
    could not be opened or run.
    """

    cause: Literal["golden", "no_gpu", "session"]
    message: str


class LoadFailed(SessionError):
    """No artifact of a version can serve here; the message says why for each, and so does `skipped`."""

    def __init__(self, message: str, skipped: dict[str, Skipped] | None = None) -> None:
        super().__init__(message)
        self.skipped = skipped or {}


@dataclass(frozen=True)
class Way:
    """One way to serve a version, which worked here. `skipped` are those before it in the manifest's order, with the reason."""

    published: ModelVersion
    path: Path
    artifact: Artifact
    candidate: Candidate
    threads: int
    goldens: tuple[Tensors, Tensors]
    skipped: dict[str, Skipped]

    def open(self, progress: Progress = lambda text: None) -> Session:
        """A session that has run every promised shape and answered the golden rows. Raises SessionError."""
        manifest = self.published.manifest
        session = open_session(self.path, self.artifact, self.candidate, manifest.signature, self.threads)
        try:
            goldens.prove(
                session,
                *self.goldens,
                self.candidate.golden_tolerance,
                manifest.task.unit,
                lambda done, shapes: progress(
                    f"proving {self.path.name} on {self.candidate.provider}: shape {done + 1} of {shapes}"
                ),
            )
        except BaseException:
            session.close()
            raise
        return session

    def check(self, session: Session) -> None:
        """Whether a session that served still does. Raises SessionError, or what the session raises."""
        goldens.check(session, *self.goldens, self.candidate.golden_tolerance, self.published.manifest.task.unit)


@dataclass(frozen=True)
class Loaded:
    """A way that works, its open sessions, what reads requests, and a batch's costs: seconds by its buckets of rows and length."""

    way: Way
    sessions: list[Session]
    reader: Reader
    costs: dict[tuple[int, int | None], float]


def load(published: ModelVersion, settings: Settings, progress: Progress = lambda text: None) -> Loaded:
    """The first way to serve, in the manifest's order, that this machine can run and whose golden rows come out right.

    Proving runs every promised shape, so the sessions are warm afterwards. Raises LoadFailed where none does, CorruptVersion
    where its golden rows or its tokenizer cannot be used.
    """
    golden_rows = published.goldens()
    reader = Reader(published, golden_rows[0])
    manifest = published.manifest
    own = max(1, cores() // settings.workers)
    least = 1 if settings.balanced else min(cores(), LEAST_SESSIONS)
    most = settings.instances or max(min(own, MOST_SESSIONS), least)
    threads = settings.threads or max(1, own // most)
    skipped: dict[str, Skipped] = {}
    for path, artifact, candidate in published.ways():
        if settings.device not in ("auto", candidate.device):
            continue
        way = Way(published, path, artifact, candidate, threads, golden_rows, skipped)
        sessions: list[Session] = []
        try:
            sessions.append(way.open(progress))
            measured = _costs(manifest, candidate, sessions[0], golden_rows[0], threads)
            while len(sessions) < (settings.instances or _sessions(candidate, measured, most)):
                sessions.append(way.open(progress))
            for session in sessions:
                session.trim(goldens.smallest(manifest.signature, golden_rows[0]))
        except BaseException as error:
            for session in sessions:
                session.close()
            if not isinstance(error, SessionError):
                raise
            skipped[f"{path.name} on {candidate.provider}"] = Skipped(_cause(candidate, error), str(error))
            continue
        _say(published, skipped)
        return Loaded(way, sessions, reader, measured)
    reasons = "; ".join(f"{name}: {why.message}" for name, why in skipped.items()) or f"it has none for --device {settings.device}"
    raise LoadFailed(f"no artifact of {published.name}:{published.version} can serve here: {reasons}", skipped)


def _sessions(candidate: Candidate, measured: dict[tuple[int, int | None], float], most: int) -> int:
    """How many there are by default: one on a GPU, and one where every batch runs in the event loop; else as many as may be."""
    return 1 if candidate.device == "cuda" or max(measured.values()) < INLINE_SECONDS else most


def _cause(candidate: Candidate, error: SessionError) -> Literal["golden", "no_gpu", "session"]:
    if isinstance(error, GoldenMismatch):
        return "golden"
    return "no_gpu" if candidate.device == "cuda" and not _has_gpu() else "session"


def _say(published: ModelVersion, skipped: dict[str, Skipped]) -> None:
    """A line for each reason, which several ways may share; no warning of GPUs where there is none."""
    for reason in dict.fromkeys(skipped.values()):
        names = [name for name, why in skipped.items() if why == reason]
        level = logging.INFO if reason.cause == "no_gpu" else logging.WARNING
        log.log(level, "%s:%d: %s not used: %s", published.name, published.version, ", ".join(names), reason.message)


def _has_gpu() -> bool:
    """Whether there is an NVIDIA GPU, be it one that cannot be used."""
    return cuda.available() or Path("/dev/nvidiactl").exists()


def _costs(
    manifest: Manifest, candidate: Candidate, session: Session, inputs: Tensors, threads: int
) -> dict[tuple[int, int | None], float]:
    """Seconds for each bucket: the exporter's, where it measured on a machine like this one, and otherwise our own."""
    if candidate.costs and threads == 1 and manifest.machine == machine():
        return {(cost.batch, cost.length): cost.median_ms / 1e3 for cost in candidate.costs}
    return goldens.costs(session, inputs)
