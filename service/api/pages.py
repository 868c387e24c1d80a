"""What pages may do: load and ask nothing but this server, and run only the scripts that came with them."""

from __future__ import annotations

import base64
import hashlib
import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

INLINE = re.compile(rb"<script(?:\s+type=\S+)?>(.*?)</script>", re.DOTALL)
POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class PagePolicy:
    """Adds a Content-Security-Policy to HTML that has none. Ours are fixed texts: no caller's words stand in them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; of a page, keep the beginning until all is there, as its scripts' hashes go into a header."""
        started: Message | None = None
        page = b""

        async def write(message: Message) -> None:
            nonlocal started, page
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                if headers.get("content-type", "").startswith("text/html") and "content-security-policy" not in headers:
                    started = message
                    return
            if started is None:
                await send(message)
                return
            page += message.get("body", b"")
            if not message.get("more_body", False):
                scripts = "".join(f" '{_hash(script)}'" for script in INLINE.findall(page))
                MutableHeaders(raw=started["headers"])["content-security-policy"] = POLICY.format(scripts=scripts)
                await send(started)
                await send({"type": "http.response.body", "body": page})

        await self._app(scope, receive, write)


def _hash(script: bytes) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}"
