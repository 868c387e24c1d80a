"""Which version of which model serves, from opening its files to closing its session."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from modelrepo.manifest import Artifact, Candidate, Manifest
from modelrepo.repository import ModelVersion, Repository
from modelrepo.tensors import Array, Tensors
from runtime.goldens import costs, prove
from runtime.machine import machine
from runtime.open import open_session
from runtime.session import Session, SessionError
from service.batching import Batcher
from service.codec.reader import Reader
from service.errors import Unavailable, UnknownModel
from service.metrics import Metrics
from service.settings import Settings

log = logging.getLogger("quartet.registry")


class LoadFailed(SessionError):
    """No artifact of a version can serve here; the message says why for each."""


@dataclass(frozen=True)
class Loaded:
    """A session that has proven itself on this machine, and the ways to serve that were passed over for it."""

    artifact: Artifact
    candidate: Candidate
    session: Session
    goldens: tuple[Tensors, Tensors]
    costs: dict[tuple[int, int | None], float]
    skipped: dict[str, str]


def load(published: ModelVersion, settings: Settings) -> Loaded:
    """The first way to serve, in the manifest's order, that this machine can run and whose golden rows come out right.

    Proving runs every promised shape, so the session is warm afterwards. Raises LoadFailed where none does.
    """
    inputs, outputs = published.goldens()
    manifest = published.manifest
    skipped: dict[str, str] = {}
    for path, artifact, candidate in published.ways():
        if settings.device not in ("auto", candidate.device):
            continue
        try:
            session = open_session(path, artifact, candidate, manifest.signature, settings.threads)
            try:
                prove(session, inputs, outputs, candidate.golden_tolerance, manifest.task.unit)
                measured = _costs(manifest, candidate, session, inputs, settings.threads)
            except BaseException:
                session.close()
                raise
        except SessionError as error:
            skipped[f"{path.name} on {candidate.provider}"] = str(error)
            continue
        _say(published, skipped)
        return Loaded(artifact, candidate, session, (inputs, outputs), measured, skipped)
    reasons = "; ".join(f"{way}: {reason}" for way, reason in skipped.items())
    raise LoadFailed(f"no artifact of {published.name}:{published.version} can serve here: {reasons}")


def _say(published: ModelVersion, skipped: dict[str, str]) -> None:
    """A warning for each reason, which several ways may share."""
    for reason in dict.fromkeys(skipped.values()):
        ways = ", ".join(way for way, why in skipped.items() if why == reason)
        log.warning("%s:%d: %s not used: %s", published.name, published.version, ways, reason)


def _costs(
    manifest: Manifest, candidate: Candidate, session: Session, inputs: Tensors, threads: int
) -> dict[tuple[int, int | None], float]:
    """Seconds for each bucket: the exporter's, where it measured on a machine like this one, and otherwise our own."""
    if candidate.costs and threads == 1 and manifest.machine == machine():
        return {(cost.batch, cost.length): cost.median_ms / 1e3 for cost in candidate.costs}
    return costs(session, inputs)


class ServedModel:
    """A version that answers: its files' facts, its session, and the batcher in front of it."""

    def __init__(self, published: ModelVersion, loaded: Loaded, settings: Settings, metrics: Metrics) -> None:
        self.name = published.name
        self.version = str(published.version)
        self.manifest = published.manifest
        self.artifact = loaded.artifact
        self.candidate = loaded.candidate
        self.provider = loaded.session.provider
        self.max_rows = settings.max_queue_rows
        self.skipped = loaded.skipped
        self.goldens = loaded.goldens
        self.reader = Reader(published, loaded.goldens[0])
        self._session = loaded.session
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"{self.name}-{self.version}")
        self.batcher = Batcher(
            self.manifest.signature,
            loaded.session.run,
            self._executor,
            settings.max_queue_rows,
            metrics.batch_observer(self.name, self.version),
            metrics.abandoned_rows.labels(self.name, self.version).inc,
            loaded.costs,
        )

    async def infer(self, inputs: Mapping[str, Array]) -> Tensors:
        """Outputs for the rows of `inputs`; the mask may be left out. Raises SignatureError, QueueFull, Unavailable."""
        signature = self.manifest.signature
        complete = signature.complete(inputs)
        rows, length = signature.check(complete)
        signature.check_values(complete)
        return await self.batcher.submit(complete, rows, length)

    async def close(self) -> None:
        """Answer what was accepted, then give back the session."""
        await self.batcher.drain()
        self._executor.shutdown()
        self._session.close()


class Registry:
    """The models being served, by name."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._models: dict[str, ServedModel] = {}
        self.ready = False

    async def load_all(self) -> None:
        """Open the repository and load the newest version of every model; ready only when all of them are.

        Raises RepositoryError or LoadFailed, after which nothing is loaded.
        """
        repository = Repository(self._settings.repository)
        names = repository.models()
        if not names:
            raise LoadFailed(f"{str(self._settings.repository)!r} holds no models: publish one with `python -m export`")
        try:
            for name in names:
                published = await asyncio.to_thread(repository.open, name)
                loaded = await asyncio.to_thread(load, published, self._settings)
                self._add(ServedModel(published, loaded, self._settings, self._metrics))
        except BaseException:
            await self.close()
            raise
        self.ready = True

    def _add(self, model: ServedModel) -> None:
        labels = (model.name, model.version)
        self._metrics.models.labels(*labels, model.artifact.file.path, model.provider, model.candidate.precision).set(1)
        self._metrics.queue_rows.labels(*labels).set_function(lambda: model.batcher.waiting_rows)
        for way in model.skipped:
            self._metrics.skipped.labels(*labels, way).inc()
        self._models[model.name] = model
        log.info("%s:%s is ready: %s on %s", *labels, model.artifact.file.path, model.provider)

    def models(self) -> list[ServedModel]:
        """All served models, by name."""
        return [self._models[name] for name in sorted(self._models)]

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """A served model. Raises UnknownModel, and Unavailable before start-up has ended or while shutting down."""
        if not self.ready:
            raise Unavailable("the server is shutting down: send the request to another instance")
        model = self._models.get(name)
        if model is None:
            raise UnknownModel(f"no model {name!r}; served are {', '.join(sorted(self._models))}")
        if version is not None and version != model.version:
            raise UnknownModel(f"model {name!r} has no version {version!r} here; served is {model.version}")
        return model

    async def close(self) -> None:
        """Not ready any more; then drain and close every model."""
        self.ready = False
        await asyncio.gather(*(model.close() for model in self._models.values()))
        self._models.clear()
