"""The one who decides whether a request comes in: every edge asks it, with the hash of the key that it was shown."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from prometheus_client import Gauge

from service.errors import Forbidden, TooManyRequests, Unauthorized
from service.keys import file
from service.keys.file import Key, KeysError, Scope
from service.keys.limits import Limits, OwnSlots, SharedSlots
from service.metrics import Metrics
from service.tally import Count, Counter
from service.watched import Watched

log = logging.getLogger("quartet.keys")

INDEXED = 8  # bytes of a hash that keys are looked up by; the rest is compared in constant time


class Principal:
    """Who holds a key, and a block within which a request of theirs is under way."""

    def __init__(self, key: Key, requests: Count) -> None:
        self.limits: Limits | None = None
        self.requests = requests
        self.key = key
        self.set(key)

    @property
    def name(self) -> str:
        """The key's, for metrics and logs."""
        return self.key.name

    def set(self, key: Key) -> None:
        """The key's entry from now on. Requests under way, and what was used of a rate, stay counted."""
        self.key = key
        self.digest = bytes.fromhex(key.sha256)
        self.scopes = frozenset(key.scopes) | {"read"}
        self.models = None if key.models is None else frozenset(key.models)

    def end(self) -> None:
        """The request is over."""
        if self.limits is not None:
            self.limits.end()

    def undo(self) -> None:
        """The request is not answered here after all, and will be admitted again where it is."""
        self.requests.inc(-1)
        if self.limits is not None:
            self.limits.undo()

    def __enter__(self) -> Principal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()


class Guard:
    """The keys of a file, which it follows."""

    def __init__(self, path: Path, metrics: Metrics, slots: OwnSlots | SharedSlots) -> None:
        """Raises KeysError where the file cannot be used."""
        self._path = path
        self._slots = slots
        self._watched = Watched(path)
        self._principals: dict[str, Principal] = {}
        self._by_digest: dict[bytes, Principal] = {}
        self._requests = Counter("quartet_key_requests", "Requests let in, by the key's name", ("key",), metrics.registry)
        self._refusals = Counter(
            "quartet_key_refusals",
            "Requests turned away: no known key (unauthorized), not for that (forbidden), its limits (rate, concurrency)",
            ("key", "reason"),
            metrics.registry,
        )
        self._known = Gauge("quartet_keys", "Keys that are known", registry=metrics.registry)
        self._rejected = metrics.rejected.labels("keys")
        self._rejected.set(0)
        self._refusals.labels("", "unauthorized")
        self._follow(file.read(path))

    def admit(self, digest: bytes | None, scope: Scope, model: str | None = None) -> Principal:
        """Let a request in, which is over with `end`, or with the block that it opens.

        `digest` is what `credentials.presented` makes of the request's headers; `model` is None for what concerns all of them.
        Raises Unauthorized, Forbidden or TooManyRequests.
        """
        if digest is None:
            self._refusals.labels("", "unauthorized").inc()
            raise Unauthorized("this server asks for a key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`")
        principal = self._by_digest.get(digest[:INDEXED])
        if principal is None or not hmac.compare_digest(principal.digest, digest):
            self._refusals.labels("", "unauthorized").inc()
            raise Unauthorized("this key is not known, or not any more")
        if scope not in principal.scopes or (principal.models is not None and model not in principal.models):
            self._refusals.labels(principal.name, "forbidden").inc()
            raise Forbidden(_forbidden(principal, scope, model))
        if principal.limits is not None:
            try:
                principal.limits.take()
            except TooManyRequests as refusal:
                self._refusals.labels(principal.name, refusal.reason).inc()
                raise
        principal.requests.inc()
        return principal

    def refresh(self) -> None:
        """Take up a file that has changed; one that cannot be used changes nothing, and is told of once."""
        if not self._watched.changed():
            return
        try:
            self._follow(file.read(self._path))
        except KeysError as error:
            log.error("the keys stay as they were: %s", error)
            self._rejected.set(1)
        else:
            self._rejected.set(0)

    def _follow(self, keys: Iterable[Key]) -> None:
        before = self._principals
        now: dict[str, Principal] = {}
        for key in keys:
            principal = before.get(key.name) or Principal(key, self._requests.labels(key.name))
            principal.set(key)
            if principal.limits is not None:
                principal.limits.set(key)
            elif key.rate is not None or key.concurrency is not None:
                principal.limits = Limits(key, self._slots.of(key.name), self._slots.number)
            now[key.name] = principal
        self._principals = now
        self._by_digest = {principal.digest[:INDEXED]: principal for principal in now.values()}
        self._known.set(len(now))
        gone = sorted(before.keys() - now.keys())
        log.info("%s: %d keys%s", self._path, len(now), f"; revoked: {', '.join(gone)}" if gone else "")


def _forbidden(principal: Principal, scope: Scope, model: str | None) -> str:
    if scope not in principal.scopes:
        return f"key {principal.name!r} is for {', '.join(principal.key.scopes)}, not for {scope}"
    what = f"model {model!r}" if model else "what concerns all models"
    return f"key {principal.name!r} is for {', '.join(principal.key.models or ())}, not for {what}"
