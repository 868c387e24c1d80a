"""What happens inside trained models, as the page shows it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.server import serving
from tests.service.playground.browser import open_view, visit

pytest.importorskip("service.api.internals", reason="this Quartet has no internals to show yet")


@pytest.fixture(scope="module")
def inside(tiny_models):
    with serving(tiny_models.root) as running:
        yield running


@pytest.fixture
def page(browser, inside):
    with visit(browser, inside.url) as page:
        yield page


def test_a_drawing_has_feature_maps_and_kernels_and_a_moved_one_is_compared_with_it(page):
    open_view(page, "#/models/tiny-cnn")
    panel = page.get_by_role("region", name="Feature maps and kernels")
    expect(panel.get_by_role("img", name=re.compile("conv1, map"))).to_have_count(4)
    expect(panel.get_by_role("img", name=re.compile("kernel"))).to_have_count(4)
    panel.get_by_role("radio", name="2").check(force=True)
    expect(panel.get_by_role("img", name=re.compile("conv2, map"))).to_have_count(8)
    page.get_by_role("slider", name="Shift right").fill("1")
    expect(page.get_by_role("img", name="conv1, filtered, then moved")).to_be_visible()
    expect(page.get_by_text(re.compile(r"apart by \d+ %")).first).to_be_visible()


def test_a_sequence_has_an_answer_after_every_step_and_gates_over_time(page):
    open_view(page, "#/models/tiny-lstm")
    gates = page.get_by_role("region", name="Gates over time")
    for name in ("input", "forget", "cell", "output"):
        expect(gates.get_by_role("img", name=re.compile(rf"{name}: 8 units over 40 steps"))).to_be_visible()
    expect(page.get_by_role("region", name="What it remembers").get_by_role("img").first).to_be_visible()
    expect(page.get_by_text("What the model would answer if the sequence ended there.")).to_be_visible()


def test_a_recall_has_a_map_for_each_head_and_bars_above_the_pairs(page):
    open_view(page, "#/models/tiny-transformer")
    expect(page.get_by_role("img", name=re.compile("Head . attention of 9 positions"))).to_have_count(2)
    heights = page.locator(".takes").evaluate_all("all => all.map(one => one.children.length)")
    assert heights == [2] * 8


def test_the_form_looks_inside_what_it_is_given(page):
    open_view(page, "#/models/tiny-transformer/form")
    page.get_by_role("button", name="Look inside").click()
    expect(page.get_by_role("region", name="Attention").get_by_role("img")).to_have_count(2)
