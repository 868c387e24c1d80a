"""The one composition root: every object of the service is made and connected here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from ipaddress import ip_address

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from modelrepo.tensors import DEFAULT_BATCH
from service import errors
from service.api import openapi, repository, v2
from service.api.inference import InferenceFirst
from service.errors import InvalidRequest, MethodNotAllowed, ServiceError, UnknownModel
from service.metrics import Metrics, joined
from service.registry import Registry
from service.settings import Settings
from service.siblings import Siblings

ALONE = Siblings()


def create_app(settings: Settings, siblings: Siblings = ALONE) -> InferenceFirst:
    """The whole service as one ASGI application.

    Its lifespan loads and proves every model before it lets start-up end; a server that wants to say how far that is starts the
    registry itself. Shutting down answers what was accepted and closes the sessions.
    """
    metrics = Metrics(DEFAULT_BATCH)
    registry = Registry(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await (await registry.start())
            yield
        finally:
            await registry.close()

    app: FastAPI = FastAPIOffline(
        title="Quartet",
        version=version("quartet"),
        description="Predictions from MLP, CNN, LSTM and Transformer models, batched across callers.",
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.include_router(v2.router(registry, siblings))
    app.include_router(repository.router(registry, siblings, _controlled(settings)))
    openapi.install(app, registry)

    @app.get("/", include_in_schema=False)
    async def start_page() -> RedirectResponse:
        return RedirectResponse("/docs")

    @app.get("/metrics", tags=["Operations"], response_class=Response)
    async def prometheus(request: Request) -> Response:
        """Metrics in Prometheus' text format."""
        others = [reply.body for reply in await siblings.repeat(request) if reply.status == 200]
        return Response(joined([metrics.render(), *others]) if others else metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def answer(request: Request, error: Exception) -> Response:
        failure = errors.translate(_from_framework(request, error))
        return Response(errors.body(failure), failure.status, failure.headers, "application/json")

    for kind in (HTTPException, RequestValidationError, ServiceError, Exception):
        app.add_exception_handler(kind, answer)

    application = InferenceFirst(registry, metrics, settings.max_body_bytes, app)
    if settings.grpc_port is not None:
        from service.rpc.server import RpcServer  # an extra, and some 15 MB of memory

        application.rpc = RpcServer(registry, metrics, settings, siblings, _controlled(settings))
    return application


def _controlled(settings: Settings) -> bool:
    """Whether callers may load and unload models."""
    if settings.control != "auto":
        return settings.control == "on"
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
