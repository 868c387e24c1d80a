"""The one composition root: every object of the service is made and connected here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from ipaddress import ip_address

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from modelrepo.tensors import DEFAULT_BATCH
from service import errors, origins, tracing, triton
from service.access import AccessLog
from service.api import card, drift, internals, openapi, playground, repository, rollout, v2
from service.api.inference import InferenceFirst
from service.api.pages import PagePolicy
from service.errors import InvalidRequest, MethodNotAllowed, ServiceError, UnknownModel
from service.keys.guard import Guard
from service.metrics import Metrics, joined
from service.registry import Registry
from service.rollout.plan import limits
from service.rollout.rollouts import Rollouts
from service.settings import Settings
from service.siblings import ASKED_BY_SIBLING, Siblings
from service.telemetry import Telemetry

ALONE = Siblings()


def create_app(settings: Settings, siblings: Siblings = ALONE) -> InferenceFirst:
    """The whole service as one ASGI application.

    Its lifespan loads and proves every model before it lets start-up end; a server that wants to say how far that is starts the
    registry itself. Shutting down answers what was accepted and closes the sessions.
    """
    metrics = Metrics(DEFAULT_BATCH)
    traces = tracing.from_environment()
    telemetry = Telemetry(metrics, traces, AccessLog() if settings.access_log else None)
    memory = settings.memory(siblings.folder)
    registry = Registry(settings, metrics, memory, traces)
    rollouts = Rollouts(registry, memory, limits(settings.rollout_limits), settings.watch, metrics, siblings)
    guard = None if settings.keys is None else Guard(settings.keys, metrics, siblings.slots())
    if settings.triton_metrics:
        triton.TritonNames(registry, metrics, settings.overload_status)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await (await registry.start())
            telemetry.start()
            yield
        finally:
            await registry.close()
            await telemetry.stop()

    app: FastAPI = FastAPIOffline(
        title="Quartet",
        version=version("quartet"),
        description="Predictions from MLP, CNN, LSTM and Transformer models, batched across callers.",
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.include_router(v2.router(registry, siblings))
    app.include_router(drift.router(registry, siblings))
    app.include_router(repository.router(registry, rollouts, siblings, _controlled(settings)))
    app.include_router(rollout.router(rollouts, _controlled(settings)))
    app.include_router(card.router(registry))
    app.include_router(internals.router(registry))
    app.include_router(playground.router(settings.playground))
    openapi.install(app, registry, keyed=guard is not None)
    app.add_middleware(PagePolicy)

    @app.get("/metrics", tags=["Operations"], response_class=Response)
    async def prometheus(request: Request) -> Response:
        """Metrics in Prometheus' text format."""
        others = [reply.body for reply in await siblings.repeat(request) if reply.status == 200]
        if not metrics.gpus.absent:
            await asyncio.to_thread(metrics.gpus.read)
        text = joined([metrics.render(), *others]) if others else metrics.render()
        if settings.triton_metrics and ASKED_BY_SIBLING not in request.headers:
            text = triton.typed(text)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def answer(request: Request, error: Exception) -> Response:
        failure = errors.translate(_from_framework(request, error))
        return Response(errors.body(failure), failure.status, failure.headers, "application/json")

    for kind in (HTTPException, RequestValidationError, ServiceError, Exception):
        app.add_exception_handler(kind, answer)

    application = InferenceFirst(
        registry, metrics, settings.max_body_bytes, app, telemetry, guard, origins.parse(settings.cors_origins)
    )
    if settings.grpc_port is not None:
        from service.rpc.server import RpcServer  # an extra, and some 15 MB of memory

        application.rpc = RpcServer(registry, rollouts, telemetry, settings, siblings, _controlled(settings), guard)
    return application


def _controlled(settings: Settings) -> bool:
    """Whether callers may load and unload models."""
    if settings.control != "auto":
        return settings.control == "on"
    if settings.keys is not None:  # only keys of scope admin get as far
        return True
    try:
        return ip_address(settings.host).is_loopback
    except ValueError:
        return settings.host == "localhost"


def _from_framework(request: Request, error: Exception) -> Exception:
    """FastAPI's own refusals as ours, so that every body is `{"error": …}`."""
    match error:
        case RequestValidationError():
            return InvalidRequest("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()))
        case HTTPException(status_code=400):
            return InvalidRequest(f"the body cannot be read: {error.detail}")
        case HTTPException(status_code=404):
            return UnknownModel("no such path; see /docs")
        case HTTPException(status_code=405):
            return MethodNotAllowed(request.method, (error.headers or {}).get("Allow", "GET"))
    return error
