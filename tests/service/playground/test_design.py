"""What holds for every view: names, roles and contrast by axe-core, room on a small screen, and nothing that jumps."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.service.playground.browser import visit
from tests.service.playground.views import show, views

pytestmark = pytest.mark.slow
VIEWS = views(["adding", "digits", "picture", "plane", "recall", "table", "text"])
SHIFTS = """() => new Promise((resolve) => new PerformanceObserver((list) =>
    resolve(list.getEntries().reduce((sum, entry) => sum + (entry.hadRecentInput ? 0 : entry.value), 0))
).observe({type: 'layout-shift', buffered: true}) || setTimeout(() => resolve(0), 100))"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_passes_axe(browser, server, theme):
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    found = {}
    with visit(browser, server.url, color_scheme=theme) as page:
        for name, path in VIEWS.items():
            show(page, path)
            result = Axe().run(page, options=options)
            if result.violations_count:
                found[name] = [
                    f"{each['id']}: {node['html'][:160]}" for each in result.response["violations"] for node in each["nodes"]
                ]
    assert found == {}


def test_every_view_fits_360_pixels(browser, server):
    too_wide = []
    with visit(browser, server.url, viewport={"width": 360, "height": 740}, has_touch=True) as page:
        for name, path in VIEWS.items():
            show(page, path)
            if page.evaluate("() => document.documentElement.scrollWidth") > 360:
                too_wide.append(name)
    assert too_wide == []


def test_nothing_jumps_while_a_view_loads(browser, server):
    jumped = {}
    for name, path in VIEWS.items():
        with visit(browser, server.url) as page:
            page.goto(f"/{path}")
            page.wait_for_load_state("networkidle")
            if (shift := page.evaluate(SHIFTS)) > 0.1:  # what the web's vitals call good
                jumped[name] = shift
    assert jumped == {}


def test_the_pad_takes_touches(browser, server):
    with visit(browser, server.url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True) as page:
        show(page, "#/models/digits")
        page.get_by_role("button", name="Clear").click()
        pad = page.get_by_role("application")
        pad.scroll_into_view_if_needed()
        box = pad.bounding_box()
        client = page.context.new_cdp_session(page)
        x = box["x"] + box["width"] / 2
        before = page.evaluate("() => scrollY")
        client.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": box["y"] + 20}]})
        for share in (0.3, 0.5, 0.7, 0.95):
            point = {"x": x, "y": box["y"] + box["height"] * share}
            client.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
        client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.get_by_text("1", exact=True).and_(page.locator(".verdict")).wait_for()
        assert page.evaluate("() => scrollY") == before, "drawing does not scroll the page"
