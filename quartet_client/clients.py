"""The two clients: both have every call of `calls.py`, one blocking and one for asyncio."""

from __future__ import annotations

import asyncio
import functools
import math
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

import httpx2

from quartet_client import calls
from quartet_client.core import Conversation, Lost, Pause, Reply, Send, Settings, TimedOut

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(call: Callable[Concatenate[Settings, P], Conversation[T]]) -> Callable[Concatenate[Client, P], T]:
    @functools.wraps(call)
    def method(self: Client, /, *arguments: P.args, **options: P.kwargs) -> T:
        return self._drive(call(self._settings, *arguments, **options))

    return method


def _awaited(call: Callable[Concatenate[Settings, P], Conversation[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    @functools.wraps(call)
    async def method(self: AsyncClient, /, *arguments: P.args, **options: P.kwargs) -> T:
        return await self._drive(call(self._settings, *arguments, **options))

    return method


class Client:
    """A server at `url`. Keeps connections open, and may be shared by threads."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | bool = True,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """`timeout` is in seconds for a whole call, math.inf for none; `retries` how often one is tried again; `headers` go with
        every request. `verify` is httpx2's: a context with a certificate of one's own for mutual TLS, False for none at all.
        `transport` replaces the network.
        """
        self._settings = _settings(api_key, timeout, retries, headers)
        self._http = httpx2.Client(base_url=_checked(url), verify=verify, transport=transport)

    infer = _blocking(calls.infer)
    predict = _blocking(calls.predict)
    models = _blocking(calls.models)
    metadata = _blocking(calls.metadata)
    get = _blocking(calls.get)
    ready = _blocking(calls.ready)
    wait_ready = _blocking(calls.wait_ready)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _drive(self, conversation: Conversation[T]) -> T:
        try:
            step = next(conversation)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = conversation.send(None)
                    continue
                try:
                    reply = self._exchange(step)
                except (Lost, TimedOut) as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    def _exchange(self, step: Send) -> Reply:
        end = time.monotonic() + step.seconds
        chunks: list[bytes] = []
        try:
            with self._http.stream(
                step.method, step.path, headers=step.headers, content=step.content, timeout=_limit(step.seconds)
            ) as response:
                for chunk in response.iter_bytes():
                    chunks.append(chunk)
                    if time.monotonic() > end:  # httpx2's own limit is for each piece
                        raise TimedOut
                return Reply(response.status_code, response.headers, b"".join(chunks))
        except httpx2.TimeoutException:
            raise TimedOut from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _lost(step, error) from None


class AsyncClient:
    """The same in asyncio's event loop: every method is a coroutine."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: int = 3,
        headers: Mapping[str, str] | None = None,
        verify: ssl.SSLContext | bool = True,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """As for `Client`."""
        self._settings = _settings(api_key, timeout, retries, headers)
        self._http = httpx2.AsyncClient(base_url=_checked(url), verify=verify, transport=transport)

    infer = _awaited(calls.infer)
    predict = _awaited(calls.predict)
    models = _awaited(calls.models)
    metadata = _awaited(calls.metadata)
    get = _awaited(calls.get)
    ready = _awaited(calls.ready)
    wait_ready = _awaited(calls.wait_ready)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _drive(self, conversation: Conversation[T]) -> T:
        try:
            step = next(conversation)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = conversation.send(None)
                    continue
                try:
                    reply = await self._exchange(step)
                except (Lost, TimedOut) as error:
                    step = conversation.throw(error)
                else:
                    step = conversation.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _exchange(self, step: Send) -> Reply:
        limit = _limit(step.seconds)
        try:
            async with asyncio.timeout(limit):
                response = await self._http.request(
                    step.method, step.path, headers=step.headers, content=step.content, timeout=limit
                )
                return Reply(response.status_code, response.headers, response.content)
        except (TimeoutError, httpx2.TimeoutException):
            raise TimedOut from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _lost(step, error) from None


def _settings(api_key: str | None, timeout: float, retries: int, headers: Mapping[str, str] | None) -> Settings:
    try:
        agent = f"quartet-client/{version('quartet')}"
    except PackageNotFoundError:  # copied, not installed
        agent = "quartet-client"
    # Numbers as bytes hardly shrink, and to compress them costs both sides more than to send them.
    found = {"user-agent": agent, "accept-encoding": "identity"}
    if api_key is not None:
        found["authorization"] = f"Bearer {api_key}"
    found |= {name.lower(): value for name, value in (headers or {}).items()}
    return Settings(found, timeout, retries)


def _checked(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url is {url!r}; it takes http://HOST:PORT or https://HOST")
    return url


def _limit(seconds: float) -> float | None:
    return None if seconds == math.inf else seconds


def _lost(step: Send, error: Exception) -> Lost:
    return Lost(f"{step.method} {step.path}: {error or type(error).__name__}")
