"""An in-process client of the whole application, over micro models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from service.app import create_app
from service.settings import Settings
from tests import micro


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    micro.publish_mean(root)
    return root


@pytest.fixture
def serve(models: Path) -> Callable[..., None]:
    """Run a coroutine function with a client of the application, settings at will."""

    def run(scenario, **settings) -> None:
        async def main() -> None:
            app = create_app(Settings(**{"repository": models, "device": "cpu", **settings}))
            async with app.lifespan():
                transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
                async with httpx2.AsyncClient(transport=transport, base_url="http://quartet") as client:
                    client.app = app
                    await asyncio.wait_for(scenario(client), 30)

        asyncio.run(main())

    return run
