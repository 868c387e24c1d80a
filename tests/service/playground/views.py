"""Every view of the page, by the path that shows it."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.service.playground.browser import open_view

OF_ALL_MODELS = {"overview": "", "functions": "#/functions"}
OF_A_MODEL = ("explore", "form", "proof")


def views(models: list[str]) -> dict[str, str]:
    """Paths by the names of the views, over these models."""
    return OF_ALL_MODELS | {f"{name}-{view}": f"#/models/{name}/{view}" for name in models for view in OF_A_MODEL}


def show(page: Page, path: str) -> None:
    """Show a view with everything in it: answers where it asks by itself, requests sent where a button sends them."""
    open_view(page, path)
    for name in ("Send them", "Ask"):
        if (button := page.get_by_role("button", name=name, exact=True)).count() and button.is_visible():
            button.click()
    page.wait_for_load_state("networkidle")
