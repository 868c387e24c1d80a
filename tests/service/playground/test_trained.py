"""The page over the four models of `make demo`, trained to their floors: what a newcomer sees is right."""

from __future__ import annotations

import dataclasses

import pytest
from playwright.sync_api import expect
from sklearn.datasets import load_digits

from export.pipeline import Options, export_run
from modelrepo.repository import Repository
from tests.conftest import PLAIN, made_once
from tests.server import serving
from tests.service.playground.browser import open_view, visit
from tests.service.playground.drawing import fill
from training import config, loop

pytestmark = pytest.mark.slow
DEMO = {
    "spirals-mlp": config.spirals_mlp,
    "digits-cnn": config.digits_cnn,
    "adding-lstm": config.adding_lstm,
    "recall-transformer": config.recall_transformer,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    def make(root):
        for name, preset in DEMO.items():
            loop.fit(dataclasses.replace(preset(root / name), control=PLAIN))
            export_run(root / name, Repository(root / "models"), name, Options(tensorrt="off", precisions=("fp32",)))

    with serving(made_once(tmp_path_factory, "trained", make) / "models") as running:
        yield running


@pytest.fixture
def page(browser, trained):
    with visit(browser, trained.url) as page:
        yield page


def test_real_digits_drawn_with_the_mouse_are_read_right(page):
    pictures, digits = load_digits().images, load_digits().target
    open_view(page, "#/models/digits-cnn")
    page.get_by_role("radio", name="fine").check(force=True)
    page.get_by_role("checkbox", name="Fit and centre").uncheck()
    for number in (1700, 1701, 1702, 1703):
        page.get_by_role("button", name="Clear").click()
        expect(page.locator(".verdict")).to_have_text("–")
        fill(page, pictures[number])
        expect(page.locator(".pixels span")).to_have_text([str(int(v)) if v else "" for v in pictures[number].ravel()])
        expect(page.locator(".verdict")).to_have_text(str(digits[number]))


def test_each_arm_of_the_spirals_has_its_region(page):
    open_view(page, "#/models/spirals-mlp")
    expect(page.get_by_text("3,600 points in one request")).to_be_visible()
    plane = page.get_by_role("application")
    box = plane.bounding_box()
    for x, y, arm in ((0.6, 0.3, "blue"), (-0.62, 0.3, "red"), (0.3, -0.62, "green")):
        left = box["width"] * (46 + (x + 1.37) / 2.75 * 594) / 640
        top = box["height"] * (1.38 - y) / 2.77 * 594 / 640
        plane.click(position={"x": left, "y": top})
        expect(page.get_by_role("region", name="Points").locator("tbody tr").first.locator("td").nth(2)).to_have_text(arm)


def test_recalled_are_the_values_that_were_stored(page):
    open_view(page, "#/models/recall-transformer")
    page.get_by_label("Key of pair 2").select_option("9")
    page.get_by_label("Which value has the key").select_option("9")
    for value in ("14", "0", "7"):
        page.get_by_label("Value of pair 2").select_option(value)
        expect(page.locator(".verdict")).to_have_text(value)
    expect(page.get_by_text("Right: that is the value stored under it.")).to_be_visible()


def test_marked_numbers_are_added_up(page):
    open_view(page, "#/models/adding-lstm")
    for _ in range(3):
        page.get_by_role("button", name="New sequence").click()
        page.wait_for_load_state("networkidle")
        assert float(page.locator(".tiles dd").nth(2).inner_text()) < 0.1
