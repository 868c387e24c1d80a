"""The page in a real browser, over models whose answers are known. A word on its console fails the test."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from sklearn.datasets import load_digits

from tests.service.playground.browser import open_view, silent, visit
from tests.service.playground.drawing import fill, trace

BUDGET = 300_000


@pytest.fixture(scope="module")
def context(browser, server):
    return browser.new_context(
        base_url=server.url, reduced_motion="reduce", viewport={"width": 1000, "height": 700}, permissions=["clipboard-write"]
    )


@pytest.fixture
def page(context):
    with silent(context.new_page()) as page:
        yield page
    page.close()


def verdict(page):
    return page.locator(".verdict").first


def test_the_overview_shows_what_serves_how_it_was_proven_and_how_batches_form(page):
    open_view(page, "")
    expect(page.get_by_role("heading", level=1)).to_have_text("7 models ready to answer")
    digits = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="digits"))
    expect(digits).to_contain_text("A grey picture, 8×8 → one of 10 labels")
    expect(digits).to_contain_text("fp32 on onnxruntime-cpu")
    expect(digits).to_contain_text("within 0 of PyTorch")
    page.get_by_role("combobox", name="Model").first.select_option("plane")
    page.get_by_role("button", name="Send them").click()
    expect(page.get_by_text(re.compile(r"32 answers within .* in \d+ batch"))).to_be_visible()
    heights = page.locator(".stacks i").count()
    assert heights == 32, "each request is a block of a batch"
    live = page.get_by_role("region", name="Live figures")
    live.get_by_role("combobox", name="Model").select_option("plane")
    expect(live.locator(".tiles div").filter(has_text="Requests").locator("dd")).to_have_text("32")


@pytest.mark.slow
def test_all_that_a_visit_of_the_whole_page_loads_is_below_300_kilobytes(browser, server):
    loaded = {}
    with visit(browser, server.url) as page:
        page.on("response", lambda response: loaded.update({response.url: response}))
        for path in ("", *(f"#/models/{name}" for name in ("adding", "digits", "plane", "recall", "table/form")), "#/functions"):
            open_view(page, path)
        files = [response for url, response in loaded.items() if "/playground/" in url or url.endswith("/")]
        assert len(files) > 15
        assert {response.status for response in files} == {200}
        assert sum(int(response.headers["content-length"]) for response in files) < BUDGET, "as they came, compressed"


def test_the_decision_boundary_comes_from_one_binary_request_and_is_where_the_model_has_it(page):
    sweeps = []
    page.on("request", lambda request: sweeps.append(request) if request.url.endswith("/infer") else None)
    open_view(page, "#/models/plane")
    expect(page.get_by_text("3,600 points in one request")).to_be_visible()
    (sweep,) = sweeps
    body, head = sweep.post_data_buffer, int(sweep.headers["inference-header-content-length"])
    assert json.loads(body[:head])["inputs"][0]["shape"] == [3600, 2]
    first, last = (struct.unpack_from("<2f", body, at) for at in (head, len(body) - 8))
    assert first[0] < last[0], "from the left"
    assert first[1] > last[1], "from the top"
    colours = page.locator(".plane").evaluate(
        """canvas => [[80, 560], [400, 100], [120, 40], [600, 560]].map(
            ([x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data])"""
    )
    # The model says b where y > x: on a square picture, above the diagonal.
    below, above, top_left, bottom_right = (np.array(colour[:3], int) for colour in colours)
    assert top_left[0] > top_left[2], "b is drawn in orange"
    assert bottom_right[2] > bottom_right[0], "a is drawn in blue"
    assert abs(above - below).sum() > 0


def test_points_are_classified_where_they_are_put_by_mouse_and_by_keys(page):
    open_view(page, "#/models/plane")
    plane = page.get_by_role("application")
    box = plane.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.2)
    expect(page.locator(".bars .best .name")).to_have_text("b")
    plane.click(position={"x": box["width"] * 0.3, "y": box["height"] * 0.2})
    rows = page.get_by_role("region", name="Points").locator("tbody tr")
    expect(rows.first).to_contain_text("b")
    for _ in range(4):
        plane.press("Shift+ArrowRight")
    for _ in range(6):
        plane.press("Shift+ArrowDown")
    plane.press("Enter")
    expect(rows).to_have_count(2)
    expect(rows.first.locator("td").nth(2)).to_have_text("a")
    page.get_by_role("button", name="200 at random").click()
    expect(rows).to_have_count(100)
    x, y, label, _ = rows.first.locator("td").all_inner_texts()
    assert label == ("a" if float(x) > float(y) else "b")
    page.get_by_role("button", name="Remove all").click()
    expect(page.get_by_text("No point yet")).to_be_visible()


def test_a_real_digit_drawn_with_the_mouse_is_seen_pixel_for_pixel_and_read_right(page):
    pictures, digits = load_digits().images, load_digits().target
    open_view(page, "#/models/digits")
    page.get_by_role("radio", name="fine").check(force=True)
    page.get_by_role("checkbox", name="Fit and centre").uncheck()
    with page.expect_request(lambda request: request.post_data_json == {"instances": [[pictures[811].astype(int).tolist()]]}):
        fill(page, pictures[811])
    expect(verdict(page)).to_have_text(str(digits[811]))


@pytest.mark.slow
def test_a_small_digit_in_the_corner_is_fitted_into_the_frame_before_it_is_read(page):
    pictures, digits = load_digits().images, load_digits().target
    open_view(page, "#/models/digits")
    trace(page, pictures[0], width=0.5)
    expect(verdict(page)).to_have_text(str(digits[0]))
    sees = [int(text) for text in page.locator(".pixels span").evaluate_all("all => all.map(one => Number(one.textContent))")]
    lines = np.array(sees).reshape(8, 8)
    assert lines[0].any(), "it reaches the top"
    assert lines[7].any(), "it reaches the bottom"
    page.get_by_role("slider", name="Turn").fill("90")
    expect(page.locator(".chart .mark-label")).to_have_text("90°")


@pytest.mark.slow
def test_the_pad_is_drawn_on_with_keys(page):
    open_view(page, "#/models/digits")
    page.get_by_role("button", name="Clear").click()
    pad = page.get_by_role("application")
    pad.press("Shift+ArrowUp")
    pad.press("Shift+ArrowUp")
    pad.press("Shift+ArrowUp")
    pad.press("Space")
    for _ in range(6):
        pad.press("Shift+ArrowDown")
    pad.press("Space")
    expect(verdict(page)).to_have_text("1")
    pad.press("Delete")
    expect(verdict(page)).to_have_text("–")


def test_recalled_is_the_value_that_was_edited_under_the_key_that_is_asked_for(page):
    open_view(page, "#/models/recall")
    page.get_by_label("Key of pair 2").select_option("9")
    page.get_by_label("Value of pair 2").select_option("14")
    page.get_by_label("Which value has the key").select_option("9")
    expect(verdict(page)).to_have_text("14")
    expect(page.get_by_text("Right: that is the value stored under it.")).to_be_visible()
    page.get_by_label("Value of pair 2").select_option("3")
    expect(verdict(page)).to_have_text("3")
    page.get_by_role("button", name="Remove pair 2").click()
    expect(page.get_by_text("No pair has that key, so any answer is a guess.")).to_be_visible()
    while page.get_by_role("button", name="Add a pair").is_enabled():
        page.get_by_role("button", name="Add a pair").click()
    assert page.get_by_label(re.compile("Key of pair")).count() == 16
    expect(page.locator(".asks .mono")).to_have_text(re.compile(r"tokens( \d+){17}$"))


def test_the_adding_problem_is_edited_and_added_up_step_by_step(page):
    open_view(page, "#/models/adding")
    tiles = page.locator(".tiles dd")
    expect(tiles.nth(2)).to_have_text("0.000")
    sequence = page.get_by_role("application")
    before = float(tiles.nth(1).inner_text())
    sequence.press("Space")
    value = float(re.search(r"Step 1 of 40: (\S+), marked", page.locator(".where").inner_text())[1])
    expect(tiles.nth(1)).not_to_have_text(f"{before:.3f}")
    assert abs(float(tiles.nth(1).inner_text()) - before - value) < 0.006
    expect(tiles.nth(2)).to_have_text("0.000")
    page.get_by_role("slider", name="Length").fill("60")
    expect(page.get_by_text("Step 1 of 60")).to_be_visible()
    expect(page.get_by_role("img", name="The model's answer after each step")).to_be_visible()


def test_a_picture_is_uploaded_to_a_users_own_model(page, tmp_path):
    pixels = np.array([[7, 80, 90], [100, 200, 255]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mine.png")
    open_view(page, "#/models/picture")
    page.get_by_label("PNG or JPEG").set_input_files(tmp_path / "mine.png")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".values dd")).to_have_text(["7", "80", "90", "100", "200", "255"])
    expect(page.get_by_text("fp32 on onnxruntime-cpu (model.onnx)")).to_be_visible()


def test_a_form_has_a_field_for_each_column_and_takes_csv(page):
    open_view(page, "#/models/table")
    page.get_by_label("age", exact=True).fill("52")
    page.get_by_label("town").select_option("Oslo")
    page.get_by_label("pay").fill("")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator(".values dd")).to_have_text(["52", "1", "-1"])
    page.get_by_role("radio", name="CSV").check(force=True)
    page.get_by_role("textbox", name="CSV").fill('town,pay\n"Å, Lofoten",3\nBergen,\n')
    page.get_by_role("button", name="Ask", exact=True).click()
    rows = page.get_by_role("region", name="Answers").locator("tbody tr")
    expect(rows.nth(0).locator("td")).to_have_text(["1", "-1", "2", "3"])
    expect(rows.nth(1).locator("td")).to_have_text(["2", "-1", "0", "-1"])


def test_errors_are_shown_as_the_server_words_them(browser, server):
    with visit(browser, server.url, expected=("422", "400")) as page:
        open_view(page, "#/models/table")
        page.get_by_role("radio", name="JSON").check(force=True)
        box = page.get_by_role("textbox", name="Instances")
        box.fill('[{"aeg": 3}]')
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("unknown column 'aeg' (did you mean 'age'?)")
        box.fill("[1,")
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("This is not JSON")


def test_copied_calls_give_the_same_answer(page, tmp_path):
    open_view(page, "#/models/text")
    page.get_by_role("textbox", name="Text").fill('it\'s a "test"\nof $HOME')
    page.get_by_role("button", name="Copy as curl").click()
    page.get_by_text("Copied.").wait_for()
    curl = page.locator("pre").inner_text()
    page.get_by_role("button", name="Copy as Python").click()
    expect(page.locator("pre")).to_contain_text("urllib")
    python = page.locator("pre").inner_text()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(verdict(page)).to_have_text("long")
    answers = [
        subprocess.run(["sh", "-c", curl], capture_output=True, text=True, check=True).stdout,
        subprocess.run([sys.executable, "-c", python], capture_output=True, text=True, check=True).stdout.replace("'", '"'),
    ]
    assert [json.loads(answer)["predictions"][0]["label"] for answer in answers] == ["long", "long"]


def test_functions_show_gradients_and_softmax_on_the_logits_of_what_was_tried_last(page):
    open_view(page, "#/functions")
    page.get_by_role("slider", name="x").fill("0")
    row = page.get_by_role("row").filter(has_text="sigmoid")
    expect(row.get_by_role("cell")).to_have_text(["0.5000", "0.2500"])
    page.get_by_role("checkbox", name="SiLU").check()
    expect(page.get_by_role("row").filter(has_text="SiLU").get_by_role("cell")).to_have_text(["0.0000", "0.5000"])
    page.goto("/#/models/recall")
    page.get_by_label("Which value has the key").wait_for()
    asked = verdict(page)
    expect(asked).not_to_have_text("–")
    label = asked.inner_text()
    page.goto("/#/functions")
    page.get_by_label("Logits of").select_option("recall")
    expect(page.locator(".bars .best .name")).to_have_text(f"{label} (+10.0)")
    page.get_by_role("slider", name="T", exact=True).fill("1.5")
    expect(page.locator(".bars .best .number")).to_have_text("8.4 %")  # exp(10 / 31.6) beside 15 times exp(0)


@pytest.mark.slow
def test_the_key_goes_with_every_call_and_stays_in_this_tab(browser, server):
    with visit(browser, server.url) as page:
        open_view(page, "")
        page.get_by_role("button", name="API key").click()
        page.get_by_label("API key").last.fill("secret")
        with page.expect_request("**/v2") as asked:
            page.get_by_role("button", name="Use it").click()
        assert asked.value.headers["authorization"] == "Bearer secret"
        assert page.evaluate("() => [JSON.stringify(localStorage), document.cookie, location.href].join()").count("secret") == 0
        open_view(page, "#/models/plane/form")
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.locator("pre")).to_contain_text('-H "Authorization: Bearer $QUARTET_API_KEY"')
        expect(page.locator("pre")).not_to_contain_text("secret")
        page.get_by_role("button", name="API key is set").click()
        page.get_by_role("button", name="Forget it").click()
        expect(page.get_by_role("button", name="API key", exact=True)).to_be_visible()


@pytest.mark.slow
def test_the_theme_is_the_systems_until_another_is_chosen_and_then_stays(browser, server):
    def background(page):
        return page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")

    with visit(browser, server.url, color_scheme="dark") as page:
        open_view(page, "#/functions")
        dark = background(page)
        page.get_by_role("button", name="Light theme").click()
        light = background(page)
        assert dark != light
        page.reload()
        assert background(page) == light


@pytest.mark.slow
def test_it_works_below_a_path_and_says_when_the_server_is_gone(browser, server):
    with visit(browser, server.url, expected=("Failed to load resource",)) as page:

        def proxied(route):
            route.fulfill(response=route.fetch(url=route.request.url.replace("/below/", "/")))

        page.route("**/below/**", proxied)
        open_view(page, "below/#/models/plane")
        expect(page.get_by_text("3,600 points in one request")).to_be_visible()
        page.unroute("**/below/**", proxied)
        open_view(page, "#/models/plane/form")
        page.route("**/predict*", lambda route: route.abort())
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("is the server running?")


@pytest.mark.slow
def test_the_first_tab_leads_to_the_content_and_a_view_takes_the_focus(page):
    open_view(page, "")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"
    page.get_by_role("link", name="Functions").click()
    page.get_by_role("heading", name="Functions inside networks").wait_for()
    assert page.evaluate("() => document.activeElement.id") == "main"
    assert page.title() == "Functions · Quartet"
