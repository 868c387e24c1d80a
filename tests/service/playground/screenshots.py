"""Pictures of every view, wide and narrow, light and dark: python -m tests.service.playground.screenshots --repository models."""

from __future__ import annotations

import argparse
from pathlib import Path

from modelrepo.repository import Repository
from tests.server import serving
from tests.service.playground.browser import chromium, visit
from tests.service.playground.views import show, views

WIDTHS = (1280, 360)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("build/screenshots"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with serving(options.repository) as server, chromium() as browser:
        for theme in ("light", "dark"):
            for width in WIDTHS:
                with visit(browser, server.url, color_scheme=theme, viewport={"width": width, "height": 900}) as page:
                    for name, path in views(Repository(options.repository).models()).items():
                        show(page, path)
                        page.screenshot(path=options.out / f"{name}-{width}-{theme}.png", full_page=True)


if __name__ == "__main__":
    main()
