"""The Chromium that is installed, headless, and the page in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
WHY_NOT = "no Chromium: install Debian's package chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def silent(page: Page, expected: tuple[str, ...] = ()) -> Iterator[Page]:
    """A page whose console must stay without errors but the `expected`: a broken policy and a failed load are errors there."""
    page.set_default_timeout(10_000)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    assert [text for text in wrong if not any(part in text for part in expected)] == []


@contextmanager
def visit(browser: Browser, url: str, expected: tuple[str, ...] = (), **options) -> Iterator[Page]:
    """A page of a visitor who was never here."""
    context = browser.new_context(base_url=url, reduced_motion="reduce", **options)
    with silent(context.new_page(), expected) as page:
        yield page
    context.close()


def open_view(page: Page, path: str) -> None:
    """Load the page with a view, and wait until it shows."""
    page.goto("about:blank")  # a change of the part behind # alone loads nothing
    page.goto(f"/{path}")
    page.locator(".view h1").wait_for()
