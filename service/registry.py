"""Which versions of which models serve: register, load, prove, swap, drain."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

from modelrepo.errors import RepositoryError, StoreError
from modelrepo.mirror import Mirror
from modelrepo.repository import ModelVersion
from service.daemon import in_daemon
from service.errors import Unavailable, UnknownModel
from service.loading import LoadFailed, load
from service.metrics import Metrics
from service.model import ServedModel
from service.settings import Settings
from service.source import source
from service.store_metrics import StoreMetrics
from service.versions import VersionPolicy

log = logging.getLogger("quartet.registry")

State = Literal["LOADING", "READY", "UNLOADING", "UNAVAILABLE"]


@dataclass
class Entry:
    """One version as the repository index shows it. `reason` says why it does not serve, or how far its loading is.

    `files` is what its folder looked like when it failed: until that changes, it is not tried again unasked.
    """

    name: str
    version: int
    state: State
    reason: str = ""
    model: ServedModel | None = None
    files: tuple[object, ...] = ()


class Registry:
    """All versions that serve or should. Its methods belong to the event loop."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._repository = source(settings)
        if isinstance(self._repository, Mirror):
            metrics.registry.register(StoreMetrics(self._repository))
        self._policy = VersionPolicy.parse(settings.versions)
        self._entries: dict[str, dict[int, Entry]] = defaultdict(dict)
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._serving: dict[tuple[str, str | None], ServedModel] = {}  # by name and version; by None the newest
        self._unloaded: set[str] = set()
        self._draining: set[asyncio.Task[None]] = set()
        self._started = False
        self._watching: asyncio.Task[None] | None = None
        self.stopping = False
        """Whether the server is on its way out: no longer ready, though it still answers."""

    # Starting and stopping

    async def start(self) -> asyncio.Task[None]:
        """Open the repository and begin to load; the task ends when every model is ready, or with what kept one from it.

        Where `latest` versions are to serve, one that is damaged or cannot serve here is passed over for the one before it.
        Raises RepositoryError or LoadFailed where there is nothing whole to load.
        """
        return asyncio.ensure_future(self._load_all(await self._open_all()))

    async def _open_all(self) -> list[ModelVersion]:
        """Every version that is to serve, each file checked."""
        opened: list[ModelVersion] = []
        await self._refresh()
        for name in await asyncio.to_thread(self._repository.models):
            chosen = self._policy.choose(name, await asyncio.to_thread(self._repository.versions, name))
            self._entries[name] = {version: self._waiting(name, version) for version in chosen}
            for version in chosen:
                opened += await self._open(name, version)
        if not opened:
            raise LoadFailed(f"{self._repository.shown!r} holds no models: publish one with `python -m export`")
        return opened

    async def _open(self, name: str, version: int) -> list[ModelVersion]:
        """A version, each file checked, or what stands in for it."""
        entry = self._entries[name][version] = self._waiting(name, version)
        try:
            return [await in_daemon(self._repository.open, name, version)]
        except RepositoryError as error:
            return await self._stand_in(entry, error)

    async def _refresh(self) -> None:
        """Look at the repository; that it cannot be reached any more, or again, is told once and shown in the index."""
        before = self._repository.outage
        await in_daemon(self._repository.refresh)
        if (outage := self._repository.outage) and not before:
            log.warning("%s; what is here goes on to serve", outage)
        elif before and not outage:
            log.info("%s can be reached again", self._repository.shown)
        for model in self.index():
            if model.state == "READY":
                model.reason = outage

    def _waiting(self, name: str, version: int) -> Entry:
        files = self._repository.fingerprint(name, version)
        return Entry(name, version, "LOADING", "waiting for its turn", files=files)

    async def _stand_in(self, failed: Entry, error: RepositoryError | LoadFailed) -> list[ModelVersion]:
        """At the start, the newest whole version before those that cannot serve; none where others of the model are left.

        Raises `error` where nothing else of the model may serve.
        """
        versions = self._entries[failed.name]
        stand_ins = self._policy.stand_ins(failed.name, await asyncio.to_thread(self._repository.versions, failed.name))
        if stand_ins is None:
            raise error
        self._failed(failed, error)
        untried = [version for version in stand_ins if version not in versions]
        if not untried and all(entry.state == "UNAVAILABLE" for entry in versions.values()):
            raise error
        log.warning("%s:%d is passed over for an older version: %s", failed.name, failed.version, error)
        return await self._open(failed.name, untried[-1]) if untried else []

    async def _load_all(self, opened: list[ModelVersion]) -> None:
        for published in opened:
            await self._load_or_stand_in(published)
        self._started = True
        if self._settings.watch:
            self._watching = asyncio.ensure_future(self._watch())

    async def _load_or_stand_in(self, published: ModelVersion) -> None:
        try:
            await self._load(published)
        except (RepositoryError, LoadFailed) as error:
            for older in await self._stand_in(self._entries[published.name][published.version], error):
                await self._load_or_stand_in(older)

    async def close(self) -> None:
        """Not ready any more; then drain and close every model."""
        self.stopping = True
        if self._watching is not None:
            self._watching.cancel()
        for entry in self.index():
            if entry.state == "READY":
                self._leave(entry, "shutting down")
        await asyncio.gather(*self._draining)

    # Answering

    @property
    def ready(self) -> bool:
        """Whether every model that should serve does, and the server is to go on."""
        return self._started and not self.stopping and not self.waiting_for()

    def waiting_for(self) -> dict[str, str]:
        """What keeps the server from being ready, by version: its loading, or a session that is being replaced.

        A version that failed to load while another serves in its place is no reason.
        """
        reasons: dict[str, str] = {}
        for versions in self._entries.values():
            serving = [entry for entry in versions.values() if entry.model is not None and entry.model.ready]
            for entry in versions.values():
                if entry.model is not None and not entry.model.ready and entry.state == "READY":
                    reasons[f"{entry.name}:{entry.version}"] = entry.model.fault or "it has no session"
                elif entry.state == "LOADING" and not serving:
                    reasons[f"{entry.name}:{entry.version}"] = entry.reason
        return reasons

    def models(self) -> list[ServedModel]:
        """All versions that serve, by name and then version."""
        return [entry.model for entry in self.index() if entry.model is not None and entry.state == "READY"]

    def versions(self, name: str) -> list[ServedModel]:
        """The versions of one model that serve, ascending."""
        return [model for model in self.models() if model.name == name]

    def find(self, name: str, version: str | None = None) -> ServedModel | None:
        """The newest version of a model that serves, or the one named, if there is one."""
        return self._serving.get((name, version))

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """What `find` finds. Raises UnknownModel, and Unavailable while starting."""
        model = self.find(name, version)
        if model is not None:
            return model
        for number, entry in self._entries.get(name, {}).items():
            if entry.state == "LOADING" and version in (None, str(number)):
                raise Unavailable(f"model {name!r} version {number} is loading: {entry.reason}")
        if version is not None and (others := self.versions(name)):
            found = ", ".join(other.version for other in others)
            raise UnknownModel(f"model {name!r} has no version {version!r} here; it has {found}")
        known = sorted({model.name for model in self.models()})
        raise UnknownModel(f"no model {name!r}; served are {', '.join(known) or 'none'}")

    def index(self) -> list[Entry]:
        """Every version known, serving or not, by name and version."""
        return [entry for name in sorted(self._entries) for _, entry in sorted(self._entries[name].items())]

    # Changing what serves

    async def load(self, name: str) -> None:
        """Serve what the repository and the version policy now say of a model: new versions first, then leave the old ones.

        Raises ModelNotFound, RepositoryError or LoadFailed; whatever served before goes on serving then.
        """
        self._unloaded.discard(name)
        await self._refresh()
        await self._sync(name, again=True)
        if outage := self._repository.outage:
            raise StoreError(outage)

    async def unload(self, name: str) -> None:
        """Answer what was accepted, and serve a model no more. Raises UnknownModel."""
        async with self._locks[name]:
            serving = [entry for entry in self._entries.get(name, {}).values() if entry.state == "READY"]
            if not serving:
                self.get(name)
            self._unloaded.add(name)
            for entry in serving:
                self._leave(entry, "unloaded on request")

    async def _watch(self) -> None:
        """Look at the repository again and again, and serve what has been published since; a failure is noted and told once."""
        while True:
            await asyncio.sleep(self._settings.watch)
            await self._refresh()
            try:
                names = await asyncio.to_thread(self._repository.models)
            except RepositoryError as error:
                log.warning("watching goes on: %s", error)
                continue
            for name in names:
                if name in self._unloaded:
                    continue
                try:
                    await self._sync(name, again=False)
                except RepositoryError as error:
                    log.warning("%s stays as it is: %s", name, error)

    async def _sync(self, name: str, again: bool) -> None:
        """Load what is wanted and does not serve; leave what is not wanted once all of that succeeded.

        Without `again`, what failed before is left alone as long as its folder looks the same.
        """
        async with self._locks[name]:
            published = await asyncio.to_thread(self._repository.versions, name)
            wanted = self._policy.choose(name, published)
            failures: list[Exception] = []
            for version in wanted:
                entry = self._entries[name].get(version)
                if entry is not None and entry.state == "READY":
                    continue
                if entry is not None and entry.model is not None:
                    await asyncio.gather(*self._draining)  # it is on its way out, and comes back anew
                files = await asyncio.to_thread(self._repository.fingerprint, name, version)
                if entry is not None and not again and entry.files == files:
                    failures.append(LoadFailed(entry.reason))
                    continue
                before = "" if entry is None else entry.reason
                entry = self._entries[name][version] = Entry(name, version, "LOADING", "checking its files", files=files)
                try:
                    await self._load(await in_daemon(self._repository.open, name, version))
                except Exception as error:  # also one that nobody foresaw leaves the old version serving
                    self._failed(entry, error)
                    failures.append(error)
                    if entry.reason == before and not again:
                        continue  # a store that is away still
                    unforeseen = not isinstance(error, RepositoryError | LoadFailed)
                    log.warning("%s:%d could not be loaded: %s", name, version, entry.reason, exc_info=unforeseen)
            if not failures:
                for entry in list(self._entries[name].values()):
                    if entry.version not in wanted and entry.state == "READY":
                        self._leave(entry, "not in the version policy any more")
            elif again:
                raise failures[0]

    def _failed(self, entry: Entry, error: Exception) -> None:
        """Note why a version does not serve."""
        entry.state, entry.reason = "UNAVAILABLE", str(error) or repr(error)
        if isinstance(error, StoreError):
            entry.files = ()  # which no files look like: another try may succeed
        self._retain()
        self._metrics.loads.labels(entry.name, "failed").inc()
        if isinstance(error, LoadFailed):
            self._metrics.skips(entry.name, str(entry.version), error.skipped)

    async def _load(self, published: ModelVersion) -> None:
        """Open, warm and prove a version, then let it answer. Raises LoadFailed or RepositoryError."""
        entry = self._entries[published.name][published.version]
        loop = asyncio.get_running_loop()

        def progress(text: str) -> None:
            loop.call_soon_threadsafe(setattr, entry, "reason", text)

        loaded = await asyncio.to_thread(load, published, self._settings, progress)
        model = ServedModel(loaded, self._settings, self._metrics)
        self._metrics.serves(model)
        self._metrics.loads.labels(model.name, "succeeded").inc()
        await asyncio.sleep(0)  # what `progress` still has to say comes before the end
        entry.model, entry.state, entry.reason, entry.files = model, "READY", self._repository.outage, ()
        self._changed()
        log.info("%s:%s is ready: %s on %s", model.name, model.version, model.artifact.file.path, model.provider)

    def _leave(self, entry: Entry, reason: str) -> None:
        """Let a version answer no new requests; it is closed when those it has are answered."""
        entry.state, entry.reason = "UNLOADING", reason
        self._changed()
        task = asyncio.ensure_future(self._close(entry))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    def _changed(self) -> None:
        """What serves is another: requests look it up here."""
        self._serving = {}
        for model in self.models():  # ascending, so that the newest comes last
            self._serving[model.name, model.version] = self._serving[model.name, None] = model

    async def _close(self, entry: Entry) -> None:
        model = entry.model
        assert model is not None
        await model.close()
        entry.model, entry.state = None, "UNAVAILABLE"
        self._retain()
        self._metrics.forgets(model)
        log.info("%s:%s is closed: %s", model.name, model.version, entry.reason)

    def _retain(self) -> None:
        """Let go of what is neither served nor on its way."""
        self._repository.retain({(entry.name, entry.version) for entry in self.index() if entry.state != "UNAVAILABLE"})
