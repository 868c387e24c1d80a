"""The model repository extension (Triton, docs/protocol/extension_model_repository.md): the index, loading and unloading."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from modelrepo.errors import ModelNotFound, RepositoryError
from service.errors import Forbidden, InvalidRequest, UnknownModel, Unprocessable
from service.loading import LoadFailed
from service.registry import Registry
from service.rollout.rollouts import Rollouts
from service.siblings import Reply, Siblings

LOAD: set[str] = set()  # the parameters that are taken
UNLOAD = {"unload_dependents"}


class IndexRequest(BaseModel):
    """`ready`: only versions that serve."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ready: bool = False


class IndexEntry(BaseModel):
    """One version. `state` is LOADING, READY, UNLOADING or UNAVAILABLE; `reason` says why, or how far."""

    name: str
    version: str
    state: str
    reason: str


class ControlRequest(BaseModel):
    """Parameters that Triton takes: none that brings a model or a configuration along, which nobody has proven."""

    model_config = ConfigDict(extra="forbid", strict=True)

    parameters: dict[str, str | int | float | bool] = {}


class Done(BaseModel):
    """Empty: it was done."""


def router(registry: Registry, rollouts: Rollouts, siblings: Siblings, controlled: bool) -> APIRouter:
    """The endpoints, over the models of `registry`. Loading and unloading are refused unless `controlled`."""
    api = APIRouter(tags=["Model repository"])

    @api.post("/v2/repository/index")
    async def index(request: IndexRequest | None = None) -> list[IndexEntry]:
        """Every version that serves, is on its way, or could not be loaded, with the reason."""
        return entries(registry, request is not None and request.ready)

    @api.post("/v2/repository/models/{model}/load")
    async def load(model: str, http: Request, request: ControlRequest | None = None) -> Done:
        """Serve what the repository and `--versions` say now; returns when it answers. Old versions leave after that.

        Where `--rollout` says how newer versions begin, they are loaded, and begin so.
        """
        allow(controlled, request.parameters if request else {}, LOAD)
        await load_here(registry, rollouts, model)
        require_done(await siblings.repeat(http, timeout=None))
        return Done()

    @api.post("/v2/repository/models/{model}/unload")
    async def unload(model: str, http: Request, request: ControlRequest | None = None) -> Done:
        """Serve a model no more; requests it has are answered."""
        allow(controlled, request.parameters if request else {}, UNLOAD)
        await registry.unload(model)
        require_done(await siblings.repeat(http, timeout=None))
        return Done()

    return api


def entries(registry: Registry, ready: bool) -> list[IndexEntry]:
    """Every version known, or those that are `ready`."""
    return [
        IndexEntry(name=entry.name, version=str(entry.version), state=entry.state, reason=entry.reason)
        for entry in registry.index()
        if entry.state == "READY" or not ready
    ]


def allow(controlled: bool, parameters: Iterable[str], known: set[str]) -> None:
    """Raise Forbidden unless callers may load and unload, InvalidRequest for a parameter that is not `known`."""
    if not controlled:
        raise Forbidden("this server takes no orders about its models: start it with --control on, on an address you guard")
    if unknown := sorted(set(parameters) - known):
        raise InvalidRequest(f"parameter {unknown[0]!r} is not taken: publish with `python -m export`, then load")


async def load_here(registry: Registry, rollouts: Rollouts, name: str) -> None:
    """Serve what the repository has now. Raises UnknownModel, or Unprocessable where that cannot be."""
    try:
        await registry.load(name)
        await rollouts.look(name, again=True)
    except ModelNotFound as error:
        raise UnknownModel(str(error)) from None
    except (RepositoryError, LoadFailed) as error:
        raise Unprocessable(f"{error} (what served before goes on serving)") from None


def require_done(replies: Sequence[Reply]) -> None:
    """Raise Unprocessable where another worker could not do what this one did."""
    for reply in replies:
        if reply.status != 200:
            raise Unprocessable(f"one worker did it, another could not: {reply.error}")
