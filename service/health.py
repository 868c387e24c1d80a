"""Who may ask what on ports of their own: probes about health, workers each other."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service import errors
from service.errors import UnknownModel
from service.keys.demand import PROBES

TRUSTED = "quartet.trusted"
"""Among the extensions of an ASGI scope: the request came from another worker, which let it in."""


def only_health(app: ASGIApp) -> ASGIApp:
    """Probes alone: for a port that is open to those without a certificate."""
    refusal = errors.body(UnknownModel("only /v2/health/live and /v2/health/ready are answered on this port"))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(refusal)).encode())]

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if PROBES.fullmatch(scope["path"]):
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": UnknownModel.status, "headers": headers})
        await send({"type": "http.response.body", "body": refusal})

    return answer


def from_workers(app: ASGIApp) -> ASGIApp:
    """Requests of other workers, on a socket that only they can reach: their callers' keys were asked for there."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "extensions": {**scope.get("extensions", {}), TRUSTED: True}}, receive, send)

    return answer
