"""Which versions of which models serve: register, load, prove, swap, drain."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from modelrepo.errors import RepositoryError, StoreError
from modelrepo.mirror import Mirror
from modelrepo.repository import ModelVersion
from service.daemon import in_daemon
from service.errors import Unavailable, UnknownModel
from service.loading import LoadFailed, load
from service.metrics import Metrics
from service.model import ServedModel
from service.rollout.memory import Memory
from service.rollout.split import Split
from service.settings import Settings
from service.source import source
from service.store_metrics import StoreMetrics
from service.watchers import watchers

if TYPE_CHECKING:
    from service.otel import Tracing

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

    def __init__(self, settings: Settings, metrics: Metrics, memory: Memory | None = None, tracing: Tracing | None = None) -> None:
        """`memory` tells which versions are to serve, as far as rollouts decide that. Raises MemoryFault."""
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self._watchers = watchers(settings, metrics)
        self._repository = source(settings)
        if isinstance(self._repository, Mirror):
            metrics.registry.register(StoreMetrics(self._repository))
        self._memory = memory or settings.memory()
        self._entries: dict[str, dict[int, Entry]] = defaultdict(dict)
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._serving: dict[tuple[str, str | None], ServedModel] = {}  # by name and version; by None the newest
        self._beside: set[tuple[str, int]] = set()  # versions that serve only who names them, and whom `splits` send to them
        self.splits: dict[str, Split] = {}
        """By model, who answers requests that name no version, where a new one has a share of them."""
        self.changed: Callable[[], None] = lambda: None
        """Called when what serves is another."""
        self._first: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._later: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._unloaded: set[str] = set()
        self._draining: set[asyncio.Task[None]] = set()
        self._started = False
        self._running: list[asyncio.Task[None]] = []
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
            chosen = await asyncio.to_thread(self._wanted, name)
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
        stand_ins = self._memory.stand_ins(failed.name, await asyncio.to_thread(self._repository.versions, failed.name))
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
        for run in self._first:
            await run()
        self._started = True
        if self._settings.watch:
            self.later(self._watch)
        self._running = [asyncio.ensure_future(run()) for run in self._later]

    def first(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something when every model serves, before the registry is ready."""
        self._first.append(run)

    def later(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something from when every model serves until the registry closes."""
        self._later.append(run)

    async def _load_or_stand_in(self, published: ModelVersion) -> None:
        try:
            await self._load(published)
        except (RepositoryError, LoadFailed) as error:
            for older in await self._stand_in(self._entries[published.name][published.version], error):
                await self._load_or_stand_in(older)

    async def close(self) -> None:
        """Not ready any more; then drain and close every model."""
        self.stopping = True
        for task in self._running:
            task.cancel()
        for entry in self.index():
            if entry.state == "READY":
                self._leave(entry, "shutting down")
        await asyncio.gather(*self._draining)
        for watcher in self._watchers:
            await asyncio.to_thread(watcher.close)

    # Answering

    @property
    def ready(self) -> bool:
        """Whether every model that should serve does, and the server is to go on."""
        return self._started and not self.stopping and not self.waiting_for()

    def waiting_for(self) -> dict[str, str]:
        """What keeps the server from being ready, by version: its loading, or a session that is being replaced.

        A version that failed to load while another serves in its place is no reason, nor is one that is being rolled out.
        """
        reasons: dict[str, str] = {}
        for versions in self._entries.values():
            serving = [entry for entry in versions.values() if entry.model is not None and entry.model.ready]
            for entry in versions.values():
                if (entry.name, entry.version) in self._beside:
                    continue
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

    def route(self, name: str, version: str | None, key: str | None) -> ServedModel | None:
        """Who answers a request, whose sticky key this is: as `find`, but that a version which is rolled out gets its share."""
        if self.splits and version is None and (split := self.splits.get(name)) is not None:
            return split.pick(key)
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
            wanted = await asyncio.to_thread(self._wanted, name)
            failures = [failure for version in wanted if (failure := await self._bring(name, version, again)) is not None]
            if not failures:
                for entry in list(self._entries[name].values()):
                    spared = entry.version in wanted or (name, entry.version) in self._beside
                    if not spared and entry.state == "READY":
                        self._leave(entry, "not in the version policy any more")
            elif again:
                raise failures[0]

    def _wanted(self, name: str) -> list[int]:
        return self._memory.wanted(name, self._repository.versions(name))

    async def _bring(self, name: str, version: int, again: bool) -> Exception | None:
        """Load a version unless it serves; returns what kept it from that."""
        entry = self._entries[name].get(version)
        if entry is not None and entry.state == "READY":
            return None
        if entry is not None and entry.model is not None:
            await asyncio.gather(*self._draining)  # it is on its way out, and comes back anew
        files = await asyncio.to_thread(self._repository.fingerprint, name, version)
        if entry is not None and not again and entry.files == files:
            return LoadFailed(entry.reason)
        before = "" if entry is None else entry.reason
        entry = self._entries[name][version] = Entry(name, version, "LOADING", "checking its files", files=files)
        try:
            await self._load(await in_daemon(self._repository.open, name, version))
        except Exception as error:  # also one that nobody foresaw leaves the old version serving
            self._failed(entry, error)
            if entry.reason != before or again:  # else the store is away still
                unforeseen = not isinstance(error, RepositoryError | LoadFailed)
                log.warning("%s:%d could not be loaded: %s", name, version, entry.reason, exc_info=unforeseen)
            return error
        return None

    async def sync(self, name: str) -> None:
        """Serve what the repository and the version policy say now; what failed before is left alone. Raises RepositoryError."""
        await self._sync(name, again=False)

    async def published(self, name: str) -> list[int]:
        """The versions of a model in the repository, ascending. Raises RepositoryError."""
        await self._refresh()
        return await asyncio.to_thread(self._repository.versions, name)

    async def serve_beside(self, name: str, version: int, again: bool = False) -> bool:
        """Load a version that serves only who names it, and whom a split sends to it; False where it served already.

        Without `again`, one that failed before is left alone as long as its folder looks the same. Raises RepositoryError or
        LoadFailed.
        """
        async with self._locks[name]:
            before = self._serving.get((name, str(version)))
            self._beside.add((name, version))
            failure = await self._bring(name, version, again)
            if failure is not None:
                self._beside.discard((name, version))
                raise failure
            self._changed()
            return before is None

    async def settle(self, name: str, leaving: int | None, reason: str) -> None:
        """No version of a model serves beside another any more: one leaves, the newest of the others serves.

        Of those, what the version policy has no place for leaves, too; nothing is loaded.
        """
        async with self._locks[name]:
            self._beside = {(model, version) for model, version in self._beside if model != name}
            entries = self._entries[name]
            if leaving in entries and entries[leaving].state == "READY":
                self._leave(entries[leaving], reason)
            self._changed()
            ready = sorted(version for version, entry in entries.items() if entry.state == "READY")
            wanted = await asyncio.to_thread(self._memory.wanted, name, ready)
            for version in ready:
                if version not in wanted:
                    self._leave(entries[version], "not in the version policy any more")

    def unloaded(self, name: str) -> bool:
        """Whether a model serves no more on request."""
        return name in self._unloaded

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

        started = time.monotonic()
        loaded = await asyncio.to_thread(load, published, self._settings, progress)
        self._metrics.load_seconds.labels(published.name).observe(time.monotonic() - started)
        model = ServedModel(loaded, self._settings, self._metrics, self._tracing)
        self._metrics.serves(model)
        for watcher in self._watchers:
            watcher.watch(model)
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
            self._serving[model.name, model.version] = model
            if (model.name, int(model.version)) not in self._beside:
                self._serving[model.name, None] = model
        self.changed()

    async def _close(self, entry: Entry) -> None:
        model = entry.model
        assert model is not None
        await model.close()
        for watcher in self._watchers:
            watcher.leave(model)
        entry.model, entry.state = None, "UNAVAILABLE"
        self._retain()
        self._metrics.forgets(model)
        log.info("%s:%s is closed: %s", model.name, model.version, entry.reason)

    def _retain(self) -> None:
        """Let go of what is neither served nor on its way."""
        self._repository.retain({(entry.name, entry.version) for entry in self.index() if entry.state != "UNAVAILABLE"})
