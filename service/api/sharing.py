"""Answers for pages of other sites (CORS)."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

ASKED_WITH = (
    "Authorization",
    "X-API-Key",
    "Content-Type",
    "Content-Encoding",
    "Inference-Header-Content-Length",
    "Quartet-Timeout-Ms",
    "Quartet-Priority",
    "Quartet-Sticky-Key",
)
TOLD = ("Inference-Header-Content-Length", "Retry-After", "Server-Timing", "WWW-Authenticate")
SECONDS = 600  # that a browser remembers a permission


def sharing(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """The application for pages of these origins too. Cookies and passwords that a browser would add by itself stay out."""
    return CORSMiddleware(
        app, allow_origins=origins, allow_methods=("GET", "POST"), allow_headers=ASKED_WITH, expose_headers=TOLD, max_age=SECONDS
    )
