"""The page at `/`: the files of `service/playground/`, read once, sent compressed, and not again to those who have them."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import NamedTuple

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from service.codec import encoding
from service.errors import UnknownModel

TYPES = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
# The page builds all it shows from nodes: nothing in it may be a script, a style or a form but the files beside it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "cache-control": "no-cache",  # kept, and asked about each time: a new Quartet's page comes whole
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "vary": "accept-encoding",
    "x-content-type-options": "nosniff",
}


class Asset(NamedTuple):
    """One file: its bytes as they are and in each coding that makes them shorter (None: as they are), and its tag."""

    media_type: str
    bodies: dict[str | None, bytes]
    tag: str


def router(on: bool) -> APIRouter:
    """`/` and the files it loads; where it is off, `/` leads to the documentation."""
    api = APIRouter(include_in_schema=False)
    if not on:

        @api.get("/")
        async def start_page() -> RedirectResponse:
            return RedirectResponse("docs")

        return api

    assets = _read()

    @api.get("/")
    async def page(request: Request) -> Response:
        return _answer(assets["index.html"], request)

    @api.get("/playground/{name}")
    async def asset(name: str, request: Request) -> Response:
        if name not in assets:
            raise UnknownModel(f"the page has no file {name!r}")
        return _answer(assets[name], request)

    return api


def _read() -> dict[str, Asset]:
    """Every file of the page by its name."""
    found: dict[str, Asset] = {}
    for file in files("service").joinpath("playground").iterdir():
        kind = TYPES.get(file.name.rpartition(".")[2])
        if kind is None:
            continue
        content = file.read_bytes()
        bodies: dict[str | None, bytes] = {None: content}
        for coding in encoding.CODINGS:
            if (shorter := encoding.shorter(content, coding)) is not None:
                bodies[coding] = shorter
        found[file.name] = Asset(f"{kind}; charset=utf-8", bodies, f'W/"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


def _answer(asset: Asset, request: Request) -> Response:
    """The file, or that the caller has it already."""
    headers = {**HEADERS, "etag": asset.tag}
    known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    if asset.tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    coding = encoding.of_answer(request.headers.get("accept-encoding", ""))
    if coding is not None and coding in asset.bodies:
        return Response(asset.bodies[coding], headers={**headers, "content-encoding": coding}, media_type=asset.media_type)
    return Response(asset.bodies[None], headers=headers, media_type=asset.media_type)
